//! Within a connection a later snapshot supersedes the earlier one: each holds all that was confirmed so far, and
//! retention must not mistake files for days. The earlier one is dropped once the later one is there.

use crate::base::ids::{ClientId, SnapshotId};
use crate::storage::{InUse, Store};

/// How many snapshots are dropped before what they alone needed is swept.
const SWEPT_TOGETHER: u32 = 64;
/// Snapshots that were in use when they were to be dropped, and are tried again.
const WAITING_MAX: usize = 16;

/// The snapshots that a connection has made.
#[derive(Debug, Default)]
pub struct Superseded {
    newest: Option<(ClientId, SnapshotId)>,
    waiting: Vec<SnapshotId>,
    /// Dropped and not swept yet.
    dropped: u32,
}

impl Superseded {
    /// Notes a new snapshot, and drops those before it. What is read or compared with in this moment waits for the
    /// next one; what cannot be dropped stays, which harms nobody.
    pub fn by(&mut self, store: &Store, client: ClientId, snapshot: SnapshotId) {
        match self.newest.replace((client, snapshot)) {
            Some((before, earlier)) if before == client => self.waiting.push(earlier),
            Some((before, _)) => {
                self.waiting.clear();
                self.sweep(store, before);
            }
            None => {}
        }
        match store.drop_snapshots(client, &self.waiting) {
            Ok(drops) => {
                self.dropped += drops.dropped.len() as u32;
                let may_go_later = |reason| matches!(reason, InUse::Busy | InUse::Awaited);
                self.waiting =
                    drops.kept.iter().filter(|(_, reason)| may_go_later(*reason)).map(|(id, _)| *id).collect();
            }
            Err(error) => log::warn!("an earlier snapshot of the same connection stays: {error}"),
        }
        let too_many = self.waiting.len().saturating_sub(WAITING_MAX);
        self.waiting.drain(..too_many);
    }

    /// Sweeps when it is worth it.
    pub fn sweep_when_due(&mut self, store: &Store) {
        if let Some((client, _)) = self.newest
            && self.dropped >= SWEPT_TOGETHER
        {
            self.sweep(store, client);
        }
    }

    /// Sweeps what is left to be swept.
    pub fn finish(mut self, store: &Store) {
        if let Some((client, _)) = self.newest {
            self.sweep(store, client);
        }
    }

    fn sweep(&mut self, store: &Store, client: ClientId) {
        if std::mem::take(&mut self.dropped) > 0
            && let Err(error) = store.sweep(client)
        {
            log::warn!("what dropped snapshots needed is swept later: {error}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::durable::Disk;
    use crate::base::path::EntryPath;

    fn put(store: &Store, client: ClientId, name: &str) -> SnapshotId {
        let mut put = store.put_file(client, EntryPath::parse(name.as_bytes()).unwrap()).unwrap();
        put.begin_content().unwrap();
        put.write(name.as_bytes()).unwrap();
        put.end_content().unwrap();
        put.commit().unwrap().id
    }

    fn ids(store: &Store, client: ClientId) -> Vec<SnapshotId> {
        store.snapshots(client).unwrap().iter().map(|head| head.id).collect()
    }

    #[test]
    fn what_is_held_stays_and_what_is_read_goes_with_the_next_one() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path(), Disk::real()).unwrap();
        let client = store.register(ClientId::random(), &"ada".parse().unwrap(), b"key", false).unwrap().id;
        // Of another connection: none of this one's to drop.
        let other = put(&store, client, "other");
        let mut superseded = Superseded::default();
        let next = |name: &str, superseded: &mut Superseded| {
            let id = put(&store, client, name);
            superseded.by(&store, client, id);
            id
        };
        let first = next("a", &mut superseded);
        let second = next("b", &mut superseded);
        assert_eq!(ids(&store, client), [other, second]);
        store.hold(client, second, true).unwrap();
        let third = next("c", &mut superseded);
        assert_eq!(ids(&store, client), [other, second, third]);
        let head = store.find_snapshot(client, third.as_str(), None).unwrap();
        let reading = store.entries(&head, &[]).unwrap();
        let fourth = next("d", &mut superseded);
        assert_eq!(ids(&store, client), [other, second, third, fourth]);
        drop(reading);
        let fifth = next("e", &mut superseded);
        assert_eq!(ids(&store, client), [other, second, fifth]);
        assert_ne!(first, second);
        superseded.finish(&store);
        let head = store.find_snapshot(client, "latest", None).unwrap();
        for stored in store.entries(&head, &[]).unwrap() {
            store.verify_content(client, &stored.unwrap()).unwrap();
        }
        assert_eq!(head.totals.files, 6);
    }
}
