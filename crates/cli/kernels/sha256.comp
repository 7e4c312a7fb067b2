// The leaves of fs-verity's tree: the SHA-256 of each block of 4 KiB, one block to an invocation. sha256.spv is made of
// this, with glslang 12.0.0 (Debian's glslang-tools), in this folder:
//
//     glslangValidator -V --target-env vulkan1.2 -o sha256.spv sha256.comp
//
// A test does so again where that version is, and compares (tests/it/kernel.rs).
#version 460

// As many as the device runs together: the pipeline says.
layout(local_size_x_id = 0) in;

// One buffer to a set, so that each buffer brings its own set, whatever it is used with.
layout(std430, set = 0, binding = 0) restrict readonly buffer Data { uvec4 data[]; };
layout(std430, set = 1, binding = 0) restrict writeonly buffer Hashes { uvec4 hashes[]; };

// How many bytes of the data are the chunk's. The buffer has room up to whole blocks, in which another chunk's bytes may
// be left. The grid may be larger than there are blocks.
layout(push_constant) uniform Arguments { uint len; };

const uint BLOCK_BYTES = 4096;
const uint MESSAGE_BYTES = 64;
const uint MESSAGES = BLOCK_BYTES / MESSAGE_BYTES;

uint rotated(uint x, int right) { return (x >> right) | (x << (32 - right)); }
uvec2 rotated(uvec2 x, int right) { return (x >> right) | (x << (32 - right)); }
uvec4 rotated(uvec4 x, int right) { return (x >> right) | (x << (32 - right)); }

// Between the GPU's order of bytes and SHA-256's.
uvec4 swapped(uvec4 x) {
    return (x << 24) | ((x & 0xff00) << 8) | ((x >> 8) & 0xff00) | (x >> 24);
}

// A word of which so many bytes, from the front, are data, and the others count as zeros.
uint padded(uint word, int there) {
    if (there >= 4) return word;
    return there > 0 ? word & (0xffffffff << (8 * (4 - there))) : 0;
}

// Four words of the message.
uvec4 words(uint index) {
    uvec4 four = swapped(data[index]);
    int there = int(len) - int(16 * index);
    if (there >= 16) return four;
    return uvec4(
        padded(four.x, there), padded(four.y, there - 4), padded(four.z, there - 8), padded(four.w, there - 12));
}

// One round; `added` is its word of the message and its constant.
void one_round(inout uvec4 abcd, inout uvec4 efgh, uint added) {
    uint a = abcd.x;
    uint e = efgh.x;
    uint choice = (e & efgh.y) ^ (~e & efgh.z);
    uint majority = (a & abcd.y) ^ (a & abcd.z) ^ (abcd.y & abcd.z);
    uint t1 = efgh.w + (rotated(e, 6) ^ rotated(e, 11) ^ rotated(e, 25)) + choice + added;
    uint t2 = (rotated(a, 2) ^ rotated(a, 13) ^ rotated(a, 22)) + majority;
    efgh = uvec4(abcd.w + t1, efgh.xyz);
    abcd = uvec4(t1 + t2, abcd.xyz);
}

void four_rounds(inout uvec4 abcd, inout uvec4 efgh, uvec4 added) {
    one_round(abcd, efgh, added.x);
    one_round(abcd, efgh, added.y);
    one_round(abcd, efgh, added.z);
    one_round(abcd, efgh, added.w);
}

// The four words of the message that follow after sixteen.
uvec4 following(uvec4 w0, uvec4 w4, uvec4 w8, uvec4 w12) {
    uvec4 early = uvec4(w0.yzw, w4.x);
    uvec4 next = w0 + (rotated(early, 7) ^ rotated(early, 18) ^ (early >> 3)) + uvec4(w8.yzw, w12.x);
    // The last two of them take the first two.
    uvec2 late = w12.zw;
    next.xy += rotated(late, 17) ^ rotated(late, 19) ^ (late >> 10);
    late = next.xy;
    next.zw += rotated(late, 17) ^ rotated(late, 19) ^ (late >> 10);
    return next;
}

// SHA-256's compression. The constants are the first 32 bits of the fractional parts of the cube roots of the first 64
// primes. They stand here one by one, since of an array that is indexed some drivers make a copy in memory.
void compress(inout uvec4 abcd, inout uvec4 efgh, uvec4 w0, uvec4 w4, uvec4 w8, uvec4 w12) {
    uvec4 abcd_before = abcd;
    uvec4 efgh_before = efgh;
    four_rounds(abcd, efgh, w0 + uvec4(0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5));
    four_rounds(abcd, efgh, w4 + uvec4(0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5));
    four_rounds(abcd, efgh, w8 + uvec4(0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3));
    four_rounds(abcd, efgh, w12 + uvec4(0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174));
    w0 = following(w0, w4, w8, w12);
    four_rounds(abcd, efgh, w0 + uvec4(0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc));
    w4 = following(w4, w8, w12, w0);
    four_rounds(abcd, efgh, w4 + uvec4(0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da));
    w8 = following(w8, w12, w0, w4);
    four_rounds(abcd, efgh, w8 + uvec4(0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7));
    w12 = following(w12, w0, w4, w8);
    four_rounds(abcd, efgh, w12 + uvec4(0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967));
    w0 = following(w0, w4, w8, w12);
    four_rounds(abcd, efgh, w0 + uvec4(0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13));
    w4 = following(w4, w8, w12, w0);
    four_rounds(abcd, efgh, w4 + uvec4(0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85));
    w8 = following(w8, w12, w0, w4);
    four_rounds(abcd, efgh, w8 + uvec4(0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3));
    w12 = following(w12, w0, w4, w8);
    four_rounds(abcd, efgh, w12 + uvec4(0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070));
    w0 = following(w0, w4, w8, w12);
    four_rounds(abcd, efgh, w0 + uvec4(0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5));
    w4 = following(w4, w8, w12, w0);
    four_rounds(abcd, efgh, w4 + uvec4(0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3));
    w8 = following(w8, w12, w0, w4);
    four_rounds(abcd, efgh, w8 + uvec4(0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208));
    w12 = following(w12, w0, w4, w8);
    four_rounds(abcd, efgh, w12 + uvec4(0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2));
    abcd += abcd_before;
    efgh += efgh_before;
}

void main() {
    uint block = gl_GlobalInvocationID.x;
    if (block >= (len + BLOCK_BYTES - 1) / BLOCK_BYTES) return;
    // The first 32 bits of the fractional parts of the square roots of the first 8 primes.
    uvec4 abcd = uvec4(0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a);
    uvec4 efgh = uvec4(0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19);
    uint index = block * (BLOCK_BYTES / 16);
    // One place for the compression, which is long.
    for (uint message = 0; message <= MESSAGES; message++) {
        // SHA-256's own padding: a one, zeros, and the number of bits.
        uvec4 w0 = uvec4(0x80000000, 0, 0, 0);
        uvec4 w4 = uvec4(0);
        uvec4 w8 = uvec4(0);
        uvec4 w12 = uvec4(0, 0, 0, BLOCK_BYTES * 8);
        if (message < MESSAGES) {
            w0 = words(index);
            w4 = words(index + 1);
            w8 = words(index + 2);
            w12 = words(index + 3);
            index += 4;
        }
        compress(abcd, efgh, w0, w4, w8, w12);
    }
    hashes[block * 2] = swapped(abcd);
    hashes[block * 2 + 1] = swapped(efgh);
}
