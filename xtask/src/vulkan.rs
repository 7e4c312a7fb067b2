//! Vulkan without a GPU: the backend on Mesa's lavapipe, with the validation layer on, which may have nothing to say.

use std::env;
use std::fs::File;
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::thread;

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use xshell::{Cmd, Shell, TempDir, cmd};

use crate::Context;
use crate::install;

/// Debian's.
pub(crate) const PACKAGES: &[&str] =
    &["glslang-tools", "libvulkan1", "mesa-vulkan-drivers", "vulkan-validationlayers"];

/// Programs that make a mistake each, and what the layer calls it. Each needs another part of the layer to be on.
const MISTAKES: &[(&str, Option<&str>)] = &[
    // What it reports here, it would report anywhere.
    ("none", None),
    ("rule", Some("VUID-vkCmdFillBuffer-size-00027")),
    ("hazard", Some("SYNC-HAZARD-WRITE-AFTER-WRITE")),
    ("submissions", Some("SYNC-HAZARD-WRITE-AFTER-WRITE")),
    ("threads", Some("Threading-MultipleThreads")),
];

/// What the layer says of itself: that it has lost count of a timeline semaphore, which it calls "most likely a validation
/// bug". It is one, which many have met (KhronosGroup/Vulkan-ValidationLayers, 4968 and 8461): a counter that a thread reads
/// while another is within `vkQueueSubmit` may be ahead of what the layer has written down. Where it holds a thread up, which
/// it does for ten seconds, tests that have less patience fail all the same.
const OF_ITSELF: &str = "UNASSIGNED-VkSemaphore-state-timeout";

/// What runs under the layer.
const STEPS: &[(&str, &str)] = &[
    ("suite", "cargo test --locked -p gpu-events-conformance --test vulkan"),
    ("pipeline", "cargo test --locked -p gpu-events-cli --lib --test it"),
    ("doctor", "cargo run --locked -- doctor --device vulkan:0"),
    ("wgpu", "cargo test --locked -p gpu-events-wgpu-example"),
];

pub(crate) fn run(cx: &Context) -> Result<()> {
    if install::has_apt(&cx.sh) {
        install::packages(&cx.sh, PACKAGES)?;
    }
    let shaders = shaders(&cx.sh);
    let layer = Layer::new(cx)?;
    layer.is_on()?;
    // All of them, even after a failure, as of the checks themselves.
    let mut failures = shaders.err().into_iter().collect::<Vec<_>>();
    for (name, command) in STEPS {
        println!("\n{name}, under the validation layer:");
        let mut words = command.split(' ');
        let command = cx.sh.cmd(words.next().unwrap_or_default()).args(words);
        failures.extend(layer.allows(name, command).err().map(|error| error.context(*name)));
    }
    for error in &failures {
        println!("FAILED: {error:#}");
    }
    ensure!(failures.is_empty(), "{} of {} steps failed, see above", failures.len(), 1 + STEPS.len());
    Ok(())
}

/// Whether each committed SPIR-V is what comes of the source beside it, with the command that the source names.
fn shaders(sh: &Shell) -> Result<()> {
    let version = cmd!(sh, "glslangValidator --version").quiet().read();
    let version = version.context("Debian's package glslang-tools has glslangValidator")?;
    let version = version.lines().next().unwrap_or_default();
    let mut sources = Vec::new();
    for member in sh.read_dir("crates")? {
        for file in sh.read_dir(member.join("kernels")).unwrap_or_default() {
            if file.extension().is_some_and(|suffix| suffix == "comp" || suffix == "spv") {
                sources.push(file.with_extension("comp"));
            }
        }
    }
    sources.dedup();
    ensure!(!sources.is_empty(), "no shader is under crates/*/kernels: what is this to check?");
    for source in sources {
        let scratch = sh.create_temp_dir()?;
        let made = scratch.path().join("made.spv");
        let binary = source.with_extension("spv");
        let text = sh.read_file(&source)?;
        let arguments = arguments(&text, &binary, &made);
        let arguments = arguments.with_context(|| {
            format!("{} names no glslangValidator command that makes its SPIR-V", source.display())
        })?;
        let folder = source.parent().context("a file without a folder")?;
        let sh = sh.clone();
        sh.change_dir(folder);
        cmd!(sh, "glslangValidator {arguments...}").run()?;
        ensure!(
            sh.read_binary_file(&made)? == sh.read_binary_file(&binary)?,
            "{} is not what {version} makes of the source beside it: make it anew with the command in {}, if that names \
             this version; another version may give other bytes, and says nothing either way",
            binary.display(),
            source.display(),
        );
        println!("{} is what {version} makes of its source", binary.display());
    }
    Ok(())
}

/// Those of the command in a shader's comment, with the result to be put elsewhere.
fn arguments(source: &str, binary: &Path, made: &Path) -> Option<Vec<PathBuf>> {
    let (_, command) = source.lines().find_map(|line| {
        line.strip_prefix("//")
            .and_then(|line| line.trim().split_once("glslangValidator "))
            .filter(|(before, _)| before.is_empty())
    })?;
    let name = binary.file_name()?;
    let mut arguments = command.split_whitespace().map(PathBuf::from).collect::<Vec<_>>();
    let output = arguments.iter().position(|argument| argument == "-o")? + 1;
    let output = arguments.get_mut(output).filter(|output| output.as_os_str() == name)?;
    *output = made.to_owned();
    Some(arguments)
}

/// The validation layer in front of lavapipe.
struct Layer<'cx> {
    sh: &'cx Shell,
    /// Lavapipe's manifest.
    driver: PathBuf,
    scratch: TempDir,
    /// Where what it said is kept.
    logs: PathBuf,
}

impl<'cx> Layer<'cx> {
    fn new(cx: &'cx Context) -> Result<Layer<'cx>> {
        let logs = PathBuf::from(cx.target_dir("vulkan"));
        cx.sh.create_dir(&logs)?;
        Ok(Layer { sh: &cx.sh, driver: lavapipe(&cx.sh)?, scratch: cx.sh.create_temp_dir()?, logs })
    }

    /// Whether it reports what it is meant to, and nothing else.
    fn is_on(&self) -> Result<()> {
        println!("\nFirst planted mistakes, which have to be reported:");
        let example = ["-p", "gpu-events-conformance", "--example", "vulkan_mistakes"];
        cmd!(self.sh, "cargo build --locked {example...}").run()?;
        for (name, expected) in MISTAKES {
            let command = cmd!(self.sh, "cargo run --quiet --locked {example...} -- {name}").quiet();
            let (device, log) = self.watch(&format!("mistake-{name}"), command, |command| command.read())?;
            let device = device?;
            ensure!(device.contains("llvmpipe"), "lavapipe was asked for, and the first device is {device}");
            let driver = self.driver.display();
            let reported = match expected {
                Some(expected) => log.findings.iter().any(|finding| finding.contains(expected)),
                None => log.instances > 0 && log.findings.is_empty(),
            };
            ensure!(
                reported,
                "in front of {driver}, the layer is not to be trusted: of the mistake `{name}` it was to say {}, and it said, of {} \
                 instances:\n{}",
                expected.unwrap_or("nothing"),
                log.instances,
                log.findings.join("\n")
            );
            println!("{name:<12} {}", expected.unwrap_or("nothing, as it should be"));
        }
        Ok(())
    }

    /// Runs a command that has to succeed, and of which nothing may be reported.
    fn allows(&self, name: &str, command: Cmd<'_>) -> Result<()> {
        let (ran, log) = self.watch(name, command, |command| command.run())?;
        for finding in log.findings.iter().take(20) {
            println!("{finding}");
        }
        println!("{name}: {} messages, of {} instances", log.findings.len(), log.instances);
        if log.of_itself > 0 {
            println!(
                "{name}: {} times the layer lost count itself ({OF_ITSELF}), which is no finding",
                log.of_itself
            );
        }
        ran?;
        // A test that found no device, or that hides the layer from its processes, would have nothing reported either.
        ensure!(log.instances > 0, "no process made an instance with the layer on");
        let file = self.log(name);
        ensure!(
            log.findings.is_empty(),
            "{} messages of the layer, in {}",
            log.findings.len(),
            file.display()
        );
        Ok(())
    }

    /// Runs a command on lavapipe under the layer, and gathers what the layer says of all its processes.
    ///
    /// Each process begins the layer's log file anew, and its output is the business of whoever started it, so the log is
    /// a pipe with a name. Each message is one write: those of several processes don't mix.
    fn watch<T>(
        &self,
        name: &str,
        command: Cmd<'_>,
        run: impl FnOnce(Cmd<'_>) -> xshell::Result<T>,
    ) -> Result<(xshell::Result<T>, Log)> {
        let folder = self.scratch.path().join(name);
        let pipe = folder.join("log");
        self.sh.write_file(folder.join("vk_layer_settings.txt"), settings(&pipe))?;
        cmd!(self.sh, "mkfifo {pipe}").quiet().run()?;
        // For writing as well: opening then waits for nobody, and the log goes on when a process ends.
        let mut from = BufReader::new(File::options().read(true).write(true).open(&pipe)?);
        let log = self.log(name);
        let mut to = File::create(&log)?;
        let reader = thread::spawn(move || -> io::Result<()> {
            let mut line = Vec::new();
            while from.read_until(b'\n', &mut line)? > 0 && line != END {
                to.write_all(&line)?;
                line.clear();
            }
            Ok(())
        });
        let ran = run(command
            .env("VK_DRIVER_FILES", &self.driver)
            .env("VK_INSTANCE_LAYERS", "VK_LAYER_KHRONOS_validation")
            .env("VK_LAYER_SETTINGS_PATH", &folder)
            // What the layer has once found right it remembers there, and looks at no more.
            .env("XDG_CACHE_HOME", self.scratch.path())
            .env("GPU_EVENTS_REQUIRE", "vulkan"));
        // Behind everything that the processes have written.
        File::options().write(true).open(&pipe)?.write_all(&[b"\n", END].concat())?;
        reader.join().map_err(|_| anyhow!("the reader of the layer's log has panicked"))??;
        let text = self.sh.read_binary_file(&log)?;
        Ok((ran, Log::new(&String::from_utf8_lossy(&text))))
    }

    fn log(&self, name: &str) -> PathBuf {
        self.logs.join(format!("{name}.log"))
    }
}

/// The line that ends a log.
const END: &[u8] = b"=== that was all\n";

/// What the layer is told.
fn settings(log: &Path) -> String {
    // `info` is how a process says that the layer is on. `perf` is advice that costs nothing to hear: without best practices,
    // which are off, it is rare.
    format!(
        "khronos_validation.debug_action = VK_DBG_LAYER_ACTION_LOG_MSG\n\
         khronos_validation.log_filename = {}\n\
         khronos_validation.report_flags = error,warn,perf,info\n\
         khronos_validation.duplicate_message_limit = 10\n\
         khronos_validation.enables = {}\n",
        log.display(),
        [
            "VK_VALIDATION_FEATURE_ENABLE_SYNCHRONIZATION_VALIDATION_EXT",
            "VALIDATION_CHECK_ENABLE_SYNCHRONIZATION_VALIDATION_QUEUE_SUBMIT",
        ]
        .join(",")
    )
}

/// What the layer has said.
#[derive(Debug, Default, PartialEq)]
struct Log {
    /// How many instances were made with the layer on.
    instances: usize,
    /// Errors and warnings.
    findings: Vec<String>,
    /// How often it lost count itself.
    of_itself: usize,
}

impl Log {
    fn new(text: &str) -> Log {
        let mut log = Log::default();
        let mut is_finding = true;
        for line in text.lines().filter(|line| !line.trim().is_empty()) {
            let begins = line.contains("Validation ") && line.contains("MessageID = ");
            if begins {
                let of_itself = line.starts_with(OF_ITSELF);
                log.of_itself += usize::from(of_itself);
                is_finding = !of_itself && !line.contains("Validation Information: ");
            }
            if line.contains("Khronos Validation Layer Active") && !is_finding {
                log.instances += 1;
            }
            match log.findings.last_mut() {
                // What nobody understands is a finding too.
                _ if !is_finding => {}
                Some(finding) if !begins => finding.extend(["\n", line]),
                _ => log.findings.push(line.to_owned()),
            }
        }
        log
    }
}

/// The manifest of Mesa's lavapipe, wherever Vulkan's loader looks for drivers.
pub(crate) fn lavapipe(sh: &Shell) -> Result<PathBuf> {
    let list = |name: &str, default: &str| {
        let list = env::var_os(name).filter(|list| !list.is_empty()).unwrap_or_else(|| default.into());
        env::split_paths(&list).collect::<Vec<_>>()
    };
    let mut roots = list("XDG_CONFIG_DIRS", "/etc/xdg");
    roots.extend(["/etc", "/usr/local/etc"].map(PathBuf::from));
    roots.extend(list("XDG_DATA_HOME", ""));
    roots.extend(list("XDG_DATA_DIRS", "/usr/local/share:/usr/share"));
    roots.extend(["/usr/local/share", "/usr/share", "/run/opengl-driver/share"].map(PathBuf::from));
    // Those of a machine with several architectures are beside each other.
    let names = [format!("lvp_icd.{}.json", env::consts::ARCH), "lvp_icd.json".to_owned()];
    for root in roots {
        for name in &names {
            let manifest = root.join("vulkan/icd.d").join(name);
            if sh.path_exists(&manifest) {
                return Ok(manifest);
            }
        }
    }
    bail!(
        "Mesa's lavapipe is not installed: no vulkan/icd.d has {names:?} (Debian's package is mesa-vulkan-drivers)"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_is_cut_into_findings() {
        let text = "\
            UNASSIGNED-status(INFO / SPEC): msgNum: -1 - Validation Information: [ UNASSIGNED-status ] Object 0: | MessageID = 0x1 | Khronos Validation Layer Active:\n    \
            Current Disables: None.\n\n    Objects: 1\n\
            SYNC-HAZARD(ERROR / SPEC): msgNum: 2 - Validation Error: [ SYNC-HAZARD ] Object 0: | MessageID = 0x2 | vkCmd\n    Objects: 1\n\
            VUID(WARN / SPEC): msgNum: 3 - Validation Warning: [ VUID ] | MessageID = 0x3 | vk\n\
            UNASSIGNED-VkSemaphore-state-timeout(ERROR / SPEC): msgNum: 5 - Validation Error: [ UNASSIGNED-VkSemaphore-state-timeout ] | MessageID = 0x5 | Timeout\n    Objects: 1\n\
            UNASSIGNED-cache(INFO / SPEC): msgNum: 4 - Validation Information: [ UNASSIGNED-cache ] | MessageID = 0x4 | no\n";
        let log = Log::new(text);
        assert_eq!((log.instances, log.of_itself), (1, 1));
        assert_eq!(log.findings.len(), 2, "{log:?}");
        assert!(log.findings[0].starts_with("SYNC-HAZARD") && log.findings[0].ends_with("Objects: 1"));
        assert_eq!(Log::new("what is this?\n").findings, ["what is this?"]);
        assert_eq!(Log::new(""), Log::default());
    }

    #[test]
    fn a_shaders_comment_has_its_command() {
        let to = |source| arguments(source, Path::new("k/a.spv"), Path::new("/tmp/b"));
        let words = to("// With\n//     glslangValidator -V -o a.spv a.comp\nvoid main() {}\n");
        assert_eq!(words, Some(["-V", "-o", "/tmp/b", "a.comp"].map(PathBuf::from).to_vec()));
        assert_eq!(to("// glslangValidator -V -o other.spv a.comp\n"), None);
        assert_eq!(to("// made by hand\n"), None);
    }
}
