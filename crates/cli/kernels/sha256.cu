// The leaves of fs-verity's tree: the SHA-256 of each block of 4 KiB, one block to a thread. sha256.ptx is made of this
// by ../../conformance/kernels/ptx.py.
//
// A test compiles the same text as C++, with CUDA's words defined away, and compares it with a SHA-256 that it knows
// (tests/it/kernel.rs): so it keeps to what both languages have.

typedef unsigned int u32;

const u32 BLOCK_BYTES = 4096;
const u32 BLOCK_WORDS = 1024;

// The first 32 bits of the fractional parts of the cube roots of the first 64 primes.
static __constant__ const u32 ROUND[64] = {
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
    0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
    0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
    0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
    0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
    0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
    0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
    0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2,
};

static __device__ u32 rotated_right(u32 x, u32 by) { return (x >> by) | (x << (32 - by)); }

// Between the GPU's order of bytes and SHA-256's.
static __device__ u32 swapped(u32 x) { return __byte_perm(x, 0, 0x0123); }

// The word at this index of the data as SHA-256 reads it, with zeros for what lies at or beyond `length` bytes: the
// buffer has room there, in which another chunk's bytes may be left.
static __device__ u32 padded_word(const u32* data, u32 index, u32 length) {
    u32 first = index * 4;
    if (first >= length) return 0;
    u32 word = swapped(data[index]);
    u32 there = length - first;
    return there >= 4 ? word : word & (0xffffffff << (8 * (4 - there)));
}

// The 16 message words from this index on.
static __device__ void message(const u32* data, u32 index, u32 length, u32* w) {
    if (index * 4 + 64 <= length) {
        // Each thread reads another block, so the GPU can't put their reads together; wide ones are fewer.
        const uint4* wide = (const uint4*)(data + index);
#pragma unroll
        for (u32 i = 0; i < 4; i++) {
            uint4 four = wide[i];
            w[4 * i] = swapped(four.x);
            w[4 * i + 1] = swapped(four.y);
            w[4 * i + 2] = swapped(four.z);
            w[4 * i + 3] = swapped(four.w);
        }
    } else {
#pragma unroll
        for (u32 i = 0; i < 16; i++) w[i] = padded_word(data, index + i, length);
    }
}

// SHA-256's compression. `w` has the message, and is overwritten.
static __device__ void compress(u32* state, u32* w) {
    u32 a = state[0], b = state[1], c = state[2], d = state[3];
    u32 e = state[4], f = state[5], g = state[6], h = state[7];
#pragma unroll 1
    for (u32 sixteen = 0;; sixteen += 16) {
        // Unrolled, the array is registers.
#pragma unroll
        for (u32 i = 0; i < 16; i++) {
            u32 choice = (e & f) ^ (~e & g);
            u32 majority = (a & b) ^ (a & c) ^ (b & c);
            u32 t1 = h + (rotated_right(e, 6) ^ rotated_right(e, 11) ^ rotated_right(e, 25)) + choice
                + ROUND[sixteen + i] + w[i];
            u32 t2 = (rotated_right(a, 2) ^ rotated_right(a, 13) ^ rotated_right(a, 22)) + majority;
            h = g;
            g = f;
            f = e;
            e = d + t1;
            d = c;
            c = b;
            b = a;
            a = t1 + t2;
        }
        if (sixteen == 48) break;
#pragma unroll
        for (u32 i = 0; i < 16; i++) {
            u32 early = w[(i + 1) & 15];
            u32 late = w[(i + 14) & 15];
            w[i] += (rotated_right(early, 7) ^ rotated_right(early, 18) ^ (early >> 3)) + w[(i + 9) & 15]
                + (rotated_right(late, 17) ^ rotated_right(late, 19) ^ (late >> 10));
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
// The grid may be larger than there are blocks. `data` is aligned to 16 bytes.
extern "C" __global__ void sha256_blocks(const u32* data, u32* hashes, u32 length) {
    u32 block = blockIdx.x * blockDim.x + threadIdx.x;
    if (block >= (length + BLOCK_BYTES - 1) / BLOCK_BYTES) return;
    // The first 32 bits of the fractional parts of the square roots of the first 8 primes.
    u32 state[8] = {
        0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19,
    };
    u32 w[16];
    u32 begin = block * BLOCK_WORDS;
    // One place for the compression, which is long.
#pragma unroll 1
    for (u32 at = 0; at <= BLOCK_WORDS; at += 16) {
        if (at < BLOCK_WORDS) {
            message(data, begin + at, length, w);
        } else {
            // SHA-256's own padding: a one, zeros, and the number of bits.
#pragma unroll
            for (u32 i = 0; i < 16; i++) w[i] = 0;
            w[0] = 0x80000000;
            w[15] = BLOCK_BYTES * 8;
        }
        compress(state, w);
    }
#pragma unroll
    for (u32 i = 0; i < 8; i++) hashes[block * 8 + i] = swapped(state[i]);
}
