//! How far an upload has got for sure: the last byte of a content that the server has verified. A connection that gets
//! further than every one before it did not fail in vain, and the patience with the line begins anew; so an
//! upload goes on over a line that drops again and again, and ends over one that lets nothing through.

use std::collections::VecDeque;

/// How far into which content: the number of its range, its place there, and the bytes of it, all of them being
/// [`WHOLE`]. Later ones are greater.
pub type Place = (u32, u32, u64);
pub const WHOLE: u64 = u64::MAX;

/// The contents of one connection.
#[derive(Debug, Default)]
pub struct Reach {
    /// What was sent, each with the segments that carry it and all before it. No more than fit the resend ring.
    sent: VecDeque<(u64, Place)>,
    verified: Option<Place>,
}

impl Reach {
    /// A place lies within the first `segments` of the connection, of which `acknowledged` have been verified.
    pub fn sent(&mut self, place: Place, segments: u64, acknowledged: u64) {
        self.acknowledge(acknowledged);
        self.sent.push_back((segments, place));
    }

    /// The server says itself that it has everything up to here.
    pub fn told(&mut self, place: Place) {
        self.verified = self.verified.max(Some(place));
    }

    /// The furthest place up to which the server has everything.
    pub fn verified(&mut self, acknowledged: u64) -> Option<Place> {
        self.acknowledge(acknowledged);
        self.verified
    }

    fn acknowledge(&mut self, acknowledged: u64) {
        while let Some(&(segments, place)) = self.sent.front()
            && segments <= acknowledged
        {
            self.sent.pop_front();
            self.told(place);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_verified_counts_and_the_furthest_of_it() {
        let mut reach = Reach::default();
        assert_eq!(reach.verified(0), None);
        reach.sent((0, 7, WHOLE), 3, 0);
        reach.sent((1, 2, 65_536), 5, 0);
        assert_eq!(reach.verified(2), None);
        assert_eq!(reach.verified(4), Some((0, 7, WHOLE)));
        // A content that is sent again.
        reach.sent((0, 1, WHOLE), 6, 5);
        assert_eq!(reach.verified(6), Some((1, 2, 65_536)));
        reach.told((2, 0, WHOLE));
        assert_eq!((reach.verified(6), reach.sent.len()), (Some((2, 0, WHOLE)), 0));
    }
}
