//! The Metal kernel's text, compiled as C++: its algorithm, if not its compiler.

use std::fs;
use std::path::Path;
use std::process::{Command, ExitStatus};

use sha2::{Digest, Sha256};

use crate::temp_dir;

/// What `#include <metal_stdlib>` finds: Metal's words that C++ lacks. Attributes that it doesn't know it ignores.
const METAL_STDLIB: &str = "
#define kernel
#define device
#define thread
#define constant const
typedef unsigned int uint;
namespace metal {}
";

/// Hashes the file that it is given as the GPU would, with what is left of another chunk behind the end of the data,
/// and more threads than blocks.
const MAIN: &str = r#"
#include <cstdio>
#include <vector>
#include "sha256.metal"

int main(int, char **arguments) {
    std::FILE *file = std::fopen(arguments[1], "rb");
    std::vector<uint> data(1 << 19, 0xa5a5a5a5);
    const uint length = std::fread(data.data(), 1, 4 * data.size(), file);
    const uint blocks = (length + 4095) / 4096;
    std::vector<uint> hashes(8 * (blocks + 3), 0x5a5a5a5a);
    for (uint block = blocks + 3; block-- > 0;) {
        sha256_blocks(data.data(), hashes.data(), length, block);
    }
    for (uint beyond = 8 * blocks; beyond < hashes.size(); beyond++) {
        if (hashes[beyond] != 0x5a5a5a5a) {
            return 1;
        }
    }
    std::FILE *result = std::fopen(arguments[2], "wb");
    return std::fwrite(hashes.data(), 32, blocks, result) != blocks || std::fclose(result) != 0;
}
"#;

fn succeeded(status: std::io::Result<ExitStatus>, what: &str) {
    let status = status.unwrap_or_else(|error| panic!("{what}: {error}"));
    assert!(status.success(), "{what}: {status}");
}

#[test]
fn the_kernel_computes_sha256() {
    if let Err(error) = Command::new("c++").arg("--version").output() {
        println!("skipped: there is no C++ compiler to be had as `c++`: {error}");
        return;
    }
    let dir = temp_dir();
    let path = |name: &str| dir.path().join(name);
    let kernel = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/pipeline/sha256.metal");
    fs::copy(kernel, path("sha256.metal")).expect("the kernel");
    fs::write(path("metal_stdlib"), METAL_STDLIB).expect("room for a few lines");
    fs::write(path("main.cpp"), MAIN).expect("room for a few lines");
    let program = path(&format!("kernel{}", std::env::consts::EXE_SUFFIX));
    let mut compile = Command::new("c++");
    compile.args(["-std=c++14", "-O1", "-w", "-I"]).arg(dir.path());
    succeeded(compile.arg(path("main.cpp")).arg("-o").arg(&program).status(), "c++");

    for length in [1, 2, 3, 4, 5, 63, 64, 4092, 4093, 4095, 4096, 4097, 8191, 8192, 40_000, (1 << 20) + 3] {
        let mut data: Vec<u8> = (0..length).map(|i: usize| (i / 4096 * 31 + i % 249) as u8).collect();
        fs::write(path("data"), &data).expect("room for a small file");
        succeeded(Command::new(&program).arg(path("data")).arg(path("hashes")).status(), "the kernel");
        data.resize(length.next_multiple_of(4096), 0);
        let expected: Vec<u8> = data.chunks(4096).flat_map(Sha256::digest).collect();
        assert_eq!(fs::read(path("hashes")).expect("hashes"), expected, "{length} bytes");
    }
}
