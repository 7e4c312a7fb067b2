//! The suite, put to the test itself.

mod faults;
mod runner;
mod subjects;
mod table;
