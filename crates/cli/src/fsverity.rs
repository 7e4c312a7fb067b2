//! The fs-verity digest of a file: SHA-256, blocks and tree nodes of 4 KiB, no salt.
//!
//! The format is the Linux kernel's (`Documentation/filesystems/fsverity.rst`): the blocks' hashes fill
//! nodes of 4 KiB, whose hashes fill nodes in turn, until one hash is left. Whatever is short of 4 KiB is
//! padded with zeros. That root stands in a descriptor of 256 bytes, and the descriptor's hash is the digest.

use sha2::{Digest, Sha256};

/// What is hashed at a time: a block of the file, or a node of the tree.
pub(crate) const BLOCK: usize = 1 << LOG_BLOCK;
const LOG_BLOCK: u8 = 12;

/// A SHA-256 hash.
pub(crate) type Hash = [u8; 32];

/// Appends the hash of each block of `data` to `hashes`, the last block padded with zeros.
///
/// Only the end of a file may be short of a whole block.
pub(crate) fn hash_blocks(data: &[u8], hashes: &mut Vec<Hash>) {
    hashes.extend(data.chunks(BLOCK).map(hash_padded));
}

fn hash_padded(data: &[u8]) -> Hash {
    const ZEROS: [u8; BLOCK] = [0; BLOCK];
    let mut hasher = Sha256::new();
    hasher.update(data);
    hasher.update(&ZEROS[data.len()..]);
    hasher.finalize().into()
}

/// The Merkle tree over a file's blocks, built as their hashes come: one open node per level is all it keeps.
#[derive(Debug, Default)]
pub(crate) struct Tree {
    /// The hashes that are not in a full node yet, leaves first.
    levels: Vec<Vec<u8>>,
}

impl Tree {
    /// Takes the hash of the next block.
    pub(crate) fn push(&mut self, leaf: &Hash) {
        self.push_at(0, leaf);
    }

    fn push_at(&mut self, level: usize, hash: &Hash) {
        if level == self.levels.len() {
            self.levels.push(Vec::with_capacity(BLOCK));
        }
        self.levels[level].extend_from_slice(hash);
        if self.levels[level].len() == BLOCK {
            self.close(level);
        }
    }

    /// Hashes the open node of `level` into the level above.
    fn close(&mut self, level: usize) {
        let hash = hash_padded(&self.levels[level]);
        self.levels[level].clear();
        self.push_at(level + 1, &hash);
    }

    /// The root: of one block its hash, of none zeros.
    pub(crate) fn root(mut self) -> Hash {
        let mut level = 0;
        while level < self.levels.len() {
            let open = &self.levels[level];
            // The top level is never emptied into another, so a lone hash there is the only one it ever had.
            if level + 1 == self.levels.len()
                && let Ok(root) = Hash::try_from(open.as_slice())
            {
                return root;
            }
            if !open.is_empty() {
                self.close(level);
            }
            level += 1;
        }
        Hash::default()
    }
}

/// The digest of a file of `size` bytes whose tree has this root: the hash of `struct fsverity_descriptor`.
pub(crate) fn digest(root: &Hash, size: u64) -> Hash {
    const VERSION: u8 = 1;
    const SHA256: u8 = 1;
    let mut descriptor = [0; 256];
    descriptor[0] = VERSION;
    descriptor[1] = SHA256;
    descriptor[2] = LOG_BLOCK;
    // [3] is the salt's length, [4..8] reserved.
    descriptor[8..16].copy_from_slice(&size.to_le_bytes());
    descriptor[16..48].copy_from_slice(root);
    // Up to [80] the root hash is padded for longer algorithms; [80..112] the salt; the rest reserved.
    Sha256::digest(descriptor).into()
}

/// The digest as `fsverity digest` writes it.
pub(crate) fn format(digest: &Hash) -> String {
    let mut text = String::from("sha256:");
    for byte in digest {
        text.push_str(&format!("{byte:02x}"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The standard, said over: all hashes of a level, then all of the next.
    fn root_by_levels(data: &[u8]) -> Hash {
        let mut level = Vec::new();
        hash_blocks(data, &mut level);
        while level.len() > 1 {
            let nodes = level.concat();
            level.clear();
            hash_blocks(&nodes, &mut level);
        }
        level.pop().unwrap_or_default()
    }

    fn of(data: &[u8]) -> String {
        let mut leaves = Vec::new();
        hash_blocks(data, &mut leaves);
        let mut tree = Tree::default();
        for leaf in &leaves {
            tree.push(leaf);
        }
        let root = tree.root();
        assert_eq!(root, root_by_levels(data), "{} bytes", data.len());
        format(&digest(&root, data.len() as u64))
    }

    /// Bytes that differ from block to block and are the same for ever: the digests below are of these.
    fn bytes(len: usize) -> Vec<u8> {
        (0..len).map(|i| (i / BLOCK + i % 251) as u8).collect()
    }

    /// What Debian's `fsverity digest` says of the same bytes.
    const KNOWN: &[(usize, &str)] = &[
        (0, "sha256:3d248ca542a24fc62d1c43b916eae5016878e2533c88238480b26128a1f1af95"),
        (1, "sha256:b803429503d95915829b29fdbc8bbad142f3abfd11b1cadf5526582e685c0551"),
        (4095, "sha256:5f4953aad672b0188023d6cd6fbce9d09508eb7dad165b6298ce0086bc1e72db"),
        (4096, "sha256:13e9b8848ae484a36acb3f3cac0ceb2f7601e96633d15c92f9bd3dd44e492157"),
        (4097, "sha256:b47263cdff0afe4e619340b9ebd17e09a4ac62d17a121481d139d02a8fe2baca"),
        (524288, "sha256:f4c2723b0429980bcc40ebe5765eab0758180adfb6ee8fc59ae93c4870d2c62f"),
        (524289, "sha256:88c324ba5b83fd8f67203998e608514c8770ccb07be8d2008d8344fe98862757"),
        (528384, "sha256:da3194f5e634502b69110596b11a6febbba8c43b4f670ba9ce11c481ba964370"),
        (67112960, "sha256:81fd37fc7a85e1da23396b54f4208f48ca49cf6b82af48a6b1aa944d50667409"),
    ];

    #[test]
    fn digests_are_those_of_fsverity() {
        for &(len, known) in KNOWN {
            assert_eq!(of(&bytes(len)), known, "{len} bytes");
        }
    }

    #[test]
    fn an_empty_file_has_a_root_of_zeros() {
        assert_eq!(Tree::default().root(), [0; 32]);
    }

    #[test]
    fn a_short_block_is_padded_and_not_the_same_file() {
        let mut padded = b"short".to_vec();
        padded.resize(BLOCK, 0);
        assert_eq!(hash_padded(b"short"), hash_padded(&padded));
        assert_ne!(of(b"short"), of(&padded));
    }

    #[test]
    fn every_count_of_leaves_up_to_three_levels() {
        // Leaves stand for blocks here: 128 to a node, so 128 * 128 + 1 of them need a third level.
        let leaves: Vec<Hash> =
            (0..128u32 * 128 + 130).map(|n| Sha256::digest(n.to_le_bytes()).into()).collect();
        let near = |n: usize| n.saturating_sub(2)..=n + 2;
        for n in [0, 128, 256, 127 * 128, 128 * 128, 128 * 128 + 128].into_iter().flat_map(near) {
            let mut tree = Tree::default();
            leaves[..n].iter().for_each(|leaf| tree.push(leaf));
            let mut level = leaves[..n].to_vec();
            while level.len() > 1 {
                let nodes = level.concat();
                level.clear();
                hash_blocks(&nodes, &mut level);
            }
            assert_eq!(tree.root(), level.pop().unwrap_or_default(), "{n} leaves");
        }
    }
}
