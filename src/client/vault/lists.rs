//! The lists of names by which the server knows what a snapshot needs. One ends where a name says so, so that a
//! change in a range makes one new list and not all of them.

use std::collections::HashSet;

use crate::base::limits::VAULT_NAMES_MAX;
use crate::base::vault::ChunkName;

/// One name in so many ends its list.
const MEAN_NAMES: u32 = 1_024;

/// Gathers names in the order of their first use.
#[derive(Default)]
pub struct ListBuilder {
    names: Vec<ChunkName>,
    known: HashSet<ChunkName>,
}

impl ListBuilder {
    /// Adds a name; gives the list that ends behind it.
    pub fn add(&mut self, name: ChunkName) -> Option<Vec<ChunkName>> {
        if !self.known.insert(name) {
            return None;
        }
        self.names.push(name);
        let head: [u8; 4] = *name.as_bytes().first_chunk().expect("a name has 32 bytes");
        let ends = u32::from_le_bytes(head).is_multiple_of(MEAN_NAMES) || self.names.len() == VAULT_NAMES_MAX;
        if ends { self.finish() } else { None }
    }

    /// What has been gathered; none where that is nothing.
    pub fn finish(&mut self) -> Option<Vec<ChunkName>> {
        self.known.clear();
        let names = std::mem::take(&mut self.names);
        (!names.is_empty()).then_some(names)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::blake3_hash;

    #[test]
    fn lists_end_where_names_say_so_and_name_nothing_twice() {
        let name = |number: u32| ChunkName::from_bytes(blake3_hash(&number.to_le_bytes()));
        let mut builder = ListBuilder::default();
        let mut lists: Vec<_> = (0..20_000)
            .flat_map(|number| [name(number), name(number)])
            .filter_map(|name| builder.add(name))
            .collect();
        lists.extend(builder.finish());
        assert!((10..40).contains(&lists.len()), "{}", lists.len());
        assert!(lists.iter().all(|list| list.iter().collect::<HashSet<_>>().len() == list.len()));
        // What ends a list and comes again begins the next one.
        let mut names = lists.concat();
        names.dedup();
        assert!(names.into_iter().eq((0..20_000).map(name)));
        assert!(builder.finish().is_none());
        let same_head = |number: u32| {
            let mut bytes = [1; 32];
            bytes[28..].copy_from_slice(&number.to_le_bytes());
            ChunkName::from_bytes(bytes)
        };
        let full = (0..5_000).find_map(|number| builder.add(same_head(number))).unwrap();
        assert_eq!(full.len(), VAULT_NAMES_MAX);
    }
}
