//! Two clocks read beside each other, over anything that carries bytes.
//!
//! One side asks and the other answers with what its clock reads, as NTP does: the other's reading was taken at some time between
//! the question and the answer, and so the shortest of several round trips says best. What comes of it is a
//! [`ClockSample`], for [`merge`](crate::merge). Two of them, one before and one after what is traced, take care of the clocks'
//! drift as well.
//!
//! ```
//! use gpu_events_trace::{ClockId, exchange};
//! use std::{net::{TcpListener, TcpStream}, thread, time::Instant};
//!
//! let listener = TcpListener::bind("127.0.0.1:0")?;
//! let address = listener.local_addr()?;
//! let other = ClockId::unique();
//! thread::spawn(move || {
//!     let begun = Instant::now();
//!     let (stream, _) = listener.accept().expect("somebody asks");
//!     exchange::serve(stream, other, || 1_000_000_000 + begun.elapsed().as_nanos() as i64)
//! });
//!
//! let begun = Instant::now();
//! let stream = TcpStream::connect(address)?;
//! let sample = exchange::sample(stream, ClockId::unique(), || begun.elapsed().as_nanos() as i64, 16)?;
//! assert_eq!(sample.other, other);
//! println!("{} ns apart, within {} ns", sample.other_reading - sample.reading, sample.uncertainty);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use crate::{ClockId, ClockSample, Error, ErrorKind, Result};
use std::io::{self, Read, Write};

/// What a question begins with, and an answer.
const QUESTION: [u8; 8] = *b"gpuevt?1";
const ANSWER: [u8; 8] = *b"gpuevt!1";

/// A question's length: its mark and its number.
const QUESTION_LENGTH: usize = 16;

/// An answer's: its mark, the number of the question, the clock, and what it read.
const ANSWER_LENGTH: usize = 40;

/// Answers what a clock reads, until nobody asks any more. `clock` is called once for each question.
///
/// # Errors
/// [`ErrorKind::Foreign`] if something else than a question comes; [`ErrorKind::Io`].
pub fn serve(mut stream: impl Read + Write, id: ClockId, clock: impl Fn() -> i64) -> Result<()> {
    loop {
        let mut question = [0; QUESTION_LENGTH];
        match stream.read_exact(&mut question) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
            read => read.map_err(|error| Error::io_of("the other side's clock", error))?,
        }
        let reading = clock();
        if question[..8] != QUESTION {
            return Err(Error::new(ErrorKind::Foreign, "what asks for the clock is not gpu-events"));
        }
        let mut answer = [0; ANSWER_LENGTH];
        answer[..8].copy_from_slice(&ANSWER);
        answer[8..16].copy_from_slice(&question[8..]);
        answer[16..32].copy_from_slice(&id.0.to_be_bytes());
        answer[32..].copy_from_slice(&reading.to_be_bytes());
        let written = stream.write_all(&answer).and_then(|()| stream.flush());
        written.map_err(|error| Error::io_of("the other side's clock", error))?;
    }
}

/// Reads the clock of whoever [serves](serve) on the other side beside ours, so many times, of which the closest counts.
///
/// # Errors
/// [`ErrorKind::Foreign`] if something else than an answer comes; [`ErrorKind::Io`].
pub fn sample(
    mut stream: impl Read + Write,
    id: ClockId,
    clock: impl Fn() -> i64,
    rounds: usize,
) -> Result<ClockSample> {
    let mut best: Option<ClockSample> = None;
    for round in 0..rounds.max(1) as u64 {
        let mut question = [0; QUESTION_LENGTH];
        question[..8].copy_from_slice(&QUESTION);
        question[8..].copy_from_slice(&round.to_be_bytes());
        let mut answer = [0; ANSWER_LENGTH];
        let before = clock();
        let carried = stream.write_all(&question).and_then(|()| stream.flush());
        let carried = carried.and_then(|()| stream.read_exact(&mut answer));
        let after = clock();
        carried.map_err(|error| Error::io_of("the other side's clock", error))?;
        if answer[..8] != ANSWER || answer[8..16] != question[8..] {
            return Err(Error::new(ErrorKind::Foreign, "what answers for the clock is not gpu-events"));
        }
        // Lengths as above.
        let other = ClockId(u128::from_be_bytes(answer[16..32].try_into().unwrap_or_default()));
        let other_reading = i64::from_be_bytes(answer[32..].try_into().unwrap_or_default());
        let gap = after.saturating_sub(before).max(0);
        // Rounded up, and the step of either clock.
        let uncertainty = gap as u64 / 2 + 2;
        if best.is_none_or(|best| uncertainty < best.uncertainty) {
            best =
                Some(ClockSample { clock: id, reading: before + gap / 2, other, other_reading, uncertainty });
        }
    }
    // There was one round at least.
    best.ok_or_else(|| Error::new(ErrorKind::Invalid, "no round was asked for"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{cell::Cell, collections::VecDeque};

    /// The other side of a connection, with delays both ways on a clock of the test's.
    struct Wire<'a> {
        now: &'a Cell<i64>,
        there: i64,
        back: i64,
        answer: VecDeque<u8>,
        other: ClockId,
        ahead: i64,
    }

    impl Write for Wire<'_> {
        fn write(&mut self, question: &[u8]) -> io::Result<usize> {
            self.now.set(self.now.get() + self.there);
            let reading = self.now.get() + self.ahead;
            let mut asked = io::Cursor::new(question.to_vec());
            let mut answered = Vec::new();
            serve(Both(&mut asked, &mut answered), self.other, || reading).map_err(io::Error::other)?;
            self.answer.extend(answered);
            self.now.set(self.now.get() + self.back);
            Ok(question.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl Read for Wire<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            self.answer.read(buffer)
        }
    }

    struct Both<'a>(&'a mut io::Cursor<Vec<u8>>, &'a mut Vec<u8>);

    impl Read for Both<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            self.0.read(buffer)
        }
    }

    impl Write for Both<'_> {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.1.write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    proptest::proptest! {
        #[test]
        fn the_truth_is_within_what_is_stated(there in 0..10_000_i64, back in 0..10_000_i64, ahead in -1_000_000..1_000_000_i64) {
            let now = Cell::new(5_000);
            let (id, other) = (ClockId::unique(), ClockId::unique());
            let wire = Wire { now: &now, there, back, answer: VecDeque::new(), other, ahead };
            let sample = sample(wire, id, || now.get(), 3).unwrap();
            proptest::prop_assert_eq!((sample.clock, sample.other), (id, other));
            let apart = sample.other_reading - sample.reading;
            proptest::prop_assert!(apart.abs_diff(ahead) <= sample.uncertainty, "{:?}", sample);
            proptest::prop_assert!(sample.uncertainty <= (there + back) as u64 / 2 + 2);
        }
    }

    #[test]
    fn others_are_told_apart() {
        let mut answered = Vec::new();
        let mut asked = io::Cursor::new(b"GET / HTTP/1.1\r\n\r\n".to_vec());
        let error = serve(Both(&mut asked, &mut answered), ClockId(1), || 0).unwrap_err();
        assert_eq!((error.kind(), answered.len()), (ErrorKind::Foreign, 0));

        let mut answers = io::Cursor::new(vec![b'x'; ANSWER_LENGTH]);
        let error = sample(Both(&mut answers, &mut Vec::new()), ClockId(1), || 0, 1).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Foreign);
        let mut nothing = io::Cursor::new(Vec::new());
        let error = sample(Both(&mut nothing, &mut Vec::new()), ClockId(1), || 0, 1).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Io);
    }
}
