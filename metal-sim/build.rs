//! objc2, block2 and dispatch2 carry `#[link(name = "objc" | "BlocksRuntime" | "dispatch")]`. This crate defines
//! those libraries' symbols itself, so the linker gets empty archives of their names.

use std::path::Path;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed=CARGO_CFG_SANITIZE");
    let out = std::env::var("OUT_DIR").expect("cargo sets OUT_DIR");
    for library in ["BlocksRuntime", "dispatch", "objc"] {
        let archive = Path::new(&out).join(format!("lib{library}.a"));
        std::fs::write(archive, b"!<arch>\n").expect("OUT_DIR is writable");
    }
    println!("cargo::rustc-link-search=native={out}");
    // The compiler knows of its sanitizer only through an unstable `cfg`: hand it on as one of ours.
    if std::env::var("CARGO_CFG_SANITIZE").is_ok_and(|s| s.split(',').any(|s| s == "thread")) {
        println!("cargo::rustc-cfg=metal_sim_tsan");
    }
}
