//! How far an upload has got for sure: the last content that the server has verified. A connection that gets
//! further than every one before it did not fail in vain, and the patience with the line begins anew; so an
//! upload goes on over a line that drops again and again, and ends over one that lets nothing through.

use std::collections::VecDeque;

/// A content by the number of its range and its place there. Later ones are greater.
pub type Place = (u32, u32);

/// The contents of one connection.
#[derive(Debug, Default)]
pub struct Reach {
    /// Contents that were sent, each with the segments that carry it and all before it. No more than fit the
    /// resend ring.
    sent: VecDeque<(u64, Place)>,
    verified: Option<Place>,
}

impl Reach {
    /// A content ends within the first `segments` of the connection, of which `acknowledged` have been verified.
    pub fn sent(&mut self, place: Place, segments: u64, acknowledged: u64) {
        self.acknowledge(acknowledged);
        self.sent.push_back((segments, place));
    }

    /// The server says itself that it has everything up to here.
    pub fn told(&mut self, place: Place) {
        self.verified = self.verified.max(Some(place));
    }

    /// The furthest content of which the server has everything.
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
        reach.sent((0, 7), 3, 0);
        reach.sent((1, 2), 5, 0);
        assert_eq!(reach.verified(2), None);
        assert_eq!(reach.verified(4), Some((0, 7)));
        // A content that is sent again.
        reach.sent((0, 1), 6, 5);
        assert_eq!(reach.verified(6), Some((1, 2)));
        reach.told((2, 0));
        assert_eq!((reach.verified(6), reach.sent.len()), (Some((2, 0)), 0));
    }
}
