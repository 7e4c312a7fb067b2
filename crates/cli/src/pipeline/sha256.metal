// The leaves of fs-verity's tree: the SHA-256 of each block of 4 KiB, one block to a thread.
//
// Metal compiles this when it runs. A test compiles the same text as C++, with the address spaces defined away, and
// compares it with a SHA-256 that it knows (tests/it/kernel.rs): so it keeps to what both languages have.

#include <metal_stdlib>
using namespace metal;

constant uint BLOCK_BYTES = 4096;
constant uint BLOCK_WORDS = 1024;

// The first 32 bits of the fractional parts of the cube roots of the first 64 primes.
constant uint ROUND[64] = {
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
    0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
    0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
    0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
    0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
    0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
    0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
    0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2,
};

static uint rotated_right(uint x, uint by) {
    return (x >> by) | (x << (32 - by));
}

// Between the host's order of bytes, which is the GPU's, and SHA-256's.
static uint swapped(uint x) {
    return (x << 24) | ((x & 0xff00) << 8) | ((x >> 8) & 0xff00) | (x >> 24);
}

// The word at this index of the data as SHA-256 reads it, with zeros for what lies at or beyond `length` bytes: the
// buffer has room there, in which another chunk's bytes may be left.
static uint padded_word(device const uint *data, uint index, uint length) {
    uint first = index * 4;
    if (first >= length) {
        return 0;
    }
    uint word = swapped(data[index]);
    uint there = length - first;
    return there >= 4 ? word : word & (0xffffffff << (8 * (4 - there)));
}

// One round of SHA-256's compression for each of 64 message words. `w` has the first 16, and is overwritten.
static void compress(thread uint *state, thread uint *w) {
    uint a = state[0], b = state[1], c = state[2], d = state[3];
    uint e = state[4], f = state[5], g = state[6], h = state[7];
    for (uint sixteen = 0; sixteen < 64; sixteen += 16) {
        // Unrolled, the array is registers.
#pragma clang loop unroll(full)
        for (uint i = 0; i < 16; i++) {
            if (sixteen > 0) {
                uint early = w[(i + 1) & 15];
                uint late = w[(i + 14) & 15];
                w[i] += (rotated_right(early, 7) ^ rotated_right(early, 18) ^ (early >> 3)) + w[(i + 9) & 15]
                    + (rotated_right(late, 17) ^ rotated_right(late, 19) ^ (late >> 10));
            }
            uint choice = (e & f) ^ (~e & g);
            uint majority = (a & b) ^ (a & c) ^ (b & c);
            uint t1 = h + (rotated_right(e, 6) ^ rotated_right(e, 11) ^ rotated_right(e, 25)) + choice
                + ROUND[sixteen + i] + w[i];
            uint t2 = (rotated_right(a, 2) ^ rotated_right(a, 13) ^ rotated_right(a, 22)) + majority;
            h = g;
            g = f;
            f = e;
            e = d + t1;
            d = c;
            c = b;
            b = a;
            a = t1 + t2;
        }
    }
    state[0] += a;
    state[1] += b;
    state[2] += c;
    state[3] += d;
    state[4] += e;
    state[5] += f;
    state[6] += g;
    state[7] += h;
}

// Writes the hash of each block of `length` bytes of `data`, 32 bytes each. The last block is padded with zeros.
// The grid may be larger than there are blocks.
kernel void sha256_blocks(
    device const uint *data [[buffer(0)]],
    device uint *hashes [[buffer(1)]],
    constant uint &length [[buffer(2)]],
    uint block [[thread_position_in_grid]])
{
    if (block >= (length + BLOCK_BYTES - 1) / BLOCK_BYTES) {
        return;
    }
    // The first 32 bits of the fractional parts of the square roots of the first 8 primes.
    uint state[8] = {
        0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19,
    };
    uint w[16];
    uint begin = block * BLOCK_WORDS;
    for (uint at = begin; at < begin + BLOCK_WORDS; at += 16) {
        for (uint i = 0; i < 16; i++) {
            w[i] = padded_word(data, at + i, length);
        }
        compress(state, w);
    }
    // SHA-256's own padding: a one, zeros, and the number of bits.
    for (uint i = 0; i < 16; i++) {
        w[i] = 0;
    }
    w[0] = 0x80000000;
    w[15] = BLOCK_BYTES * 8;
    compress(state, w);
    for (uint i = 0; i < 8; i++) {
        hashes[block * 8 + i] = swapped(state[i]);
    }
}
