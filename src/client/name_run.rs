//! Names of one folder held in memory, compactly: one arena, and eight bytes for each name, with no
//! allocation for each of them. Once sorted they are in bytewise order, each of them once.

use std::cmp::Ordering;

/// Some names of a folder.
#[derive(Debug, Default)]
pub(super) struct NameRun {
    /// The names, each with its terminating NUL, which sorts below every other byte: a name stands before
    /// the names it begins.
    arena: Vec<u8>,
    names: Vec<Name>,
}

#[derive(Debug, Clone, Copy)]
struct Name {
    start: u32,
    /// The length with the NUL.
    length: u32,
}

impl NameRun {
    /// Adds a name with its terminating NUL. The caller keeps all of them together below 4 GiB.
    pub(super) fn add(&mut self, name: &[u8]) {
        let start = u32::try_from(self.arena.len()).expect("the caller bounds the run");
        let length = u32::try_from(name.len()).expect("the caller bounds the run");
        self.arena.extend_from_slice(name);
        self.names.push(Name { start, length });
    }

    /// Sorts. A folder that changes while it is read may have given a name twice: it is kept once.
    pub(super) fn sort(&mut self) {
        let arena = &self.arena;
        let order = |left: &Name, right: &Name| -> Ordering { bytes_of(arena, *left).cmp(bytes_of(arena, *right)) };
        self.names.sort_unstable_by(order);
        self.names.dedup_by(|left, right| order(left, right).is_eq());
    }

    pub(super) fn clear(&mut self) {
        self.arena.clear();
        self.names.clear();
    }

    pub(super) fn shrink(&mut self) {
        self.arena.shrink_to_fit();
        self.names.shrink_to_fit();
    }

    /// How many names there are.
    pub(super) fn count(&self) -> usize {
        self.names.len()
    }

    /// The bytes of all names, with their NULs.
    pub(super) fn name_bytes(&self) -> usize {
        self.arena.len()
    }

    /// What the run takes of memory.
    pub(super) fn memory_bytes(&self) -> usize {
        self.arena.capacity() + self.names.capacity() * size_of::<Name>()
    }

    /// The name with this number, with its NUL.
    pub(super) fn get(&self, number: usize) -> Option<&[u8]> {
        self.names.get(number).map(|name| bytes_of(&self.arena, *name))
    }

    /// The names in order, each with its NUL.
    pub(super) fn iter(&self) -> impl Iterator<Item = &[u8]> {
        self.names.iter().map(|name| bytes_of(&self.arena, *name))
    }
}

fn bytes_of(arena: &[u8], name: Name) -> &[u8] {
    &arena[name.start as usize..][..name.length as usize]
}
