//! Where connections wait until they have proved who they are. It is small, so that strangers cost little,
//! and it never turns a newcomer away: the one that has waited longest goes instead. Nobody is banned.

use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::channel::Closer;

/// Connections that wait at a time.
pub const WAITING_MAX: usize = 64;
/// Connections that wait at a time from one IPv4 address or one IPv6 /64; loopback is exempt.
pub const WAITING_PER_SOURCE_MAX: usize = 8;

/// Where a connection comes from, as far as sharing the room is concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Source {
    Loopback,
    Network([u8; 8]),
}

impl Source {
    fn of(address: IpAddr) -> Source {
        match address.to_canonical() {
            address if address.is_loopback() => Source::Loopback,
            IpAddr::V4(address) => {
                let [a, b, c, d] = address.octets();
                Source::Network([0, 0, 0, 4, a, b, c, d])
            }
            IpAddr::V6(address) => {
                let octets = address.octets();
                Source::Network(std::array::from_fn(|index| octets[index]))
            }
        }
    }
}

#[derive(Debug)]
struct Place {
    number: u64,
    source: Source,
    closer: Closer,
}

#[derive(Debug, Default)]
struct Places {
    /// In order of arrival.
    taken: Vec<Place>,
    next_number: u64,
    dropped: u64,
}

/// The room.
#[derive(Debug, Default)]
pub struct WaitingRoom {
    places: Mutex<Places>,
}

/// A place in the room, left when it is dropped.
#[derive(Debug)]
pub struct Seat {
    room: Arc<WaitingRoom>,
    number: u64,
}

impl WaitingRoom {
    pub fn new() -> Arc<WaitingRoom> {
        Arc::new(WaitingRoom::default())
    }

    /// Takes a place. Where the room or the source's share of it is full, the connection that has waited
    /// longest there is ended.
    pub fn enter(self: &Arc<WaitingRoom>, address: IpAddr, closer: Closer) -> Seat {
        let source = Source::of(address);
        let mut places = self.places();
        let share = places.taken.iter().filter(|place| place.source == source).count();
        let oldest = match source {
            Source::Network(_) if share >= WAITING_PER_SOURCE_MAX => {
                places.taken.iter().position(|place| place.source == source)
            }
            _ if places.taken.len() >= WAITING_MAX => Some(0),
            _ => None,
        };
        if let Some(oldest) = oldest {
            places.taken.remove(oldest).closer.close();
            places.dropped += 1;
        }
        let number = places.next_number;
        places.next_number += 1;
        places.taken.push(Place { number, source, closer });
        Seat { room: self.clone(), number }
    }

    /// How many connections were ended for a newcomer so far.
    pub fn dropped(&self) -> u64 {
        self.places().dropped
    }

    pub fn len(&self) -> usize {
        self.places().taken.len()
    }

    fn places(&self) -> MutexGuard<'_, Places> {
        // The list is whole between any two statements: a panic elsewhere must not close the room.
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.room.places().taken.retain(|place| place.number != self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::channel::Transport;

    fn enter(room: &Arc<WaitingRoom>, address: &str) -> (Seat, Transport) {
        let (near, far) = Transport::pair().unwrap();
        (room.enter(address.parse().unwrap(), near.closer()), far)
    }

    #[test]
    fn the_oldest_makes_room_for_a_newcomer() {
        let room = WaitingRoom::new();
        let seats: Vec<_> = (0..WAITING_MAX + 1).map(|n| enter(&room, &format!("10.0.{n}.1"))).collect();
        assert_eq!((room.len(), room.dropped()), (WAITING_MAX, 1));
        drop(seats);
        assert_eq!(room.len(), 0);
    }

    #[test]
    fn one_address_has_eight_places_and_loopback_all() {
        let room = WaitingRoom::new();
        let strangers: Vec<_> = (0..9).map(|n| enter(&room, &format!("2001:db8::{n}"))).collect();
        assert_eq!((room.len(), room.dropped()), (8, 1));
        drop(strangers);
        let local: Vec<_> = (0..20).map(|_| enter(&room, "127.0.0.1")).collect();
        let mapped: Vec<_> = (0..20).map(|_| enter(&room, "::ffff:127.0.0.1")).collect();
        assert_eq!(room.len(), local.len() + mapped.len());
    }
}
