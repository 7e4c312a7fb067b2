//! The kernels' text, compiled as C++: their algorithm, if not their compilers. Vulkan's is compiled as it is.

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

/// How `main` runs one thread of Metal's.
const METAL: &str = r#"
#include "sha256.metal"

void run(unsigned *data, unsigned *hashes, unsigned length, unsigned block) {
    sha256_blocks(data, hashes, length, block);
}
"#;

/// CUDA's words that C++ lacks, and how `main` runs one of its threads: in groups of 32, as the pipeline does.
const CUDA: &str = r#"
#define __device__
#define __global__
#define __constant__
struct uint3 { unsigned x, y, z; } threadIdx, blockIdx, blockDim;
struct alignas(16) uint4 { unsigned x, y, z, w; };

unsigned __byte_perm(unsigned low, unsigned high, unsigned selector) {
    const unsigned long long both = (unsigned long long)high << 32 | low;
    unsigned result = 0;
    for (int byte = 0; byte < 4; byte++) {
        result |= (unsigned)(both >> 8 * (selector >> 4 * byte & 7) & 0xff) << 8 * byte;
    }
    return result;
}

#include "sha256.cu"

void run(unsigned *data, unsigned *hashes, unsigned length, unsigned block) {
    blockDim.x = 32;
    blockIdx.x = block / 32;
    threadIdx.x = block % 32;
    sha256_blocks(data, hashes, length);
}
"#;

/// Hashes the file that it is given as the GPU would, with what is left of another chunk behind the end of the data,
/// and more threads than blocks.
const MAIN: &str = r#"
#include <cstdio>
#include "kernel.h"

alignas(16) static unsigned data[1 << 19], hashes[8 * (512 + 3)];

int main(int, char **arguments) {
    for (unsigned &word : data) word = 0xa5a5a5a5;
    for (unsigned &word : hashes) word = 0x5a5a5a5a;
    std::FILE *file = std::fopen(arguments[1], "rb");
    const unsigned length = std::fread(data, 1, sizeof data, file);
    const unsigned blocks = (length + 4095) / 4096;
    for (unsigned block = blocks + 3; block-- > 0;) {
        run(data, hashes, length, block);
    }
    for (unsigned beyond = 8 * blocks; beyond < 8 * (blocks + 3); beyond++) {
        if (hashes[beyond] != 0x5a5a5a5a) {
            return 1;
        }
    }
    std::FILE *result = std::fopen(arguments[2], "wb");
    return std::fwrite(hashes, 32, blocks, result) != blocks || std::fclose(result) != 0;
}
"#;

fn succeeded(status: std::io::Result<ExitStatus>, what: &str) {
    let status = status.unwrap_or_else(|error| panic!("{what}: {error}"));
    assert!(status.success(), "{what}: {status}");
}

#[test]
fn metals_kernel_computes_sha256() {
    computes_sha256("src/pipeline/sha256.metal", METAL);
}

#[test]
fn cudas_kernel_computes_sha256() {
    computes_sha256("kernels/sha256.cu", CUDA);
}

/// That it computes SHA-256, the pipeline's own tests see, on whatever Vulkan device there is.
#[test]
fn vulkans_kernel_is_made_of_its_source() {
    let kernels = Path::new(env!("CARGO_MANIFEST_DIR")).join("kernels");
    let dir = temp_dir();
    let made = dir.path().join("sha256.spv");
    let mut compile = Command::new("glslangValidator");
    compile
        .args(["-V", "--target-env", "vulkan1.2", "-o"])
        .arg(&made)
        .arg("sha256.comp")
        .current_dir(&kernels);
    match compile.output() {
        Ok(output) => assert!(output.status.success(), "{output:?}"),
        Err(error) => {
            println!("skipped: there is no glslangValidator: {error}");
            return;
        }
    }
    let made = fs::read(made).expect("what the compiler has written");
    let ours = fs::read(kernels.join("sha256.spv")).expect("the kernel");
    // The third word names the compiler and its version: another one writes other code.
    if made[8..12] != ours[8..12] {
        println!("skipped: another version of glslang");
        return;
    }
    assert!(made == ours, "sha256.comp has changed since sha256.spv was made of it, and says how");
}

fn computes_sha256(kernel: &str, run: &str) {
    if let Err(error) = Command::new("c++").arg("--version").output() {
        println!("skipped: there is no C++ compiler to be had as `c++`: {error}");
        return;
    }
    let dir = temp_dir();
    let path = |name: &str| dir.path().join(name);
    let kernel = Path::new(env!("CARGO_MANIFEST_DIR")).join(kernel);
    let name = kernel.file_name().and_then(|name| name.to_str()).expect("a name");
    fs::copy(&kernel, path(name)).expect("the kernel");
    fs::write(path("metal_stdlib"), METAL_STDLIB).expect("room for a few lines");
    fs::write(path("kernel.h"), run).expect("room for a few lines");
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
