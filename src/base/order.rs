//! Sorting for the short lists that a program has beside its data: heads, clients, names of files.
//!
//! The standard library's sort is compiled again for every kind of item, and is some 5 KiB of program each time. Here
//! it is compiled once, for the places of the items. The names of a folder, of which there may be a million, are
//! sorted by the standard library.

use std::cmp::Ordering;
use std::collections::BTreeSet;

/// Sorts by `order`; what is equal keeps its order.
pub fn sort_by<T>(items: &mut [T], mut order: impl FnMut(&T, &T) -> Ordering) {
    let mut places: Vec<usize> = (0..items.len()).collect();
    sort_places(&mut places, &mut |left, right| order(&items[left], &items[right]));
    arrange(items, &mut places);
}

/// Sorts by what `key` makes of each item; what is equal keeps its order.
pub fn sort_by_key<T, K: Ord>(items: &mut [T], mut key: impl FnMut(&T) -> K) {
    sort_by(items, |left, right| key(left).cmp(&key(right)));
}

/// Sorts by the order of the items themselves.
pub fn sort<T: Ord>(items: &mut [T]) {
    sort_by(items, T::cmp);
}

/// The set of what `items` gives: added one by one, where collecting it would sort it first.
pub fn set_of<T: Ord>(items: impl IntoIterator<Item = T>) -> BTreeSet<T> {
    let mut set = BTreeSet::new();
    set.extend(items);
    set
}

fn sort_places(places: &mut [usize], order: &mut dyn FnMut(usize, usize) -> Ordering) {
    places.sort_by(|left, right| order(*left, *right));
}

/// Moves the item at `places[n]` to place `n`, for each `n`, by going round every circle of items that take each
/// other's place.
fn arrange<T>(items: &mut [T], places: &mut [usize]) {
    for start in 0..items.len() {
        let mut here = start;
        while places[here] != start {
            let from = std::mem::replace(&mut places[here], here);
            items.swap(here, from);
            here = from;
        }
        places[here] = here;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn it_sorts_as_the_standard_library_does(numbers in proptest::collection::vec(0_u8..20, 0..200)) {
            // The place tells equal ones apart: they must keep their order.
            let items: Vec<(u8, usize)> = numbers.into_iter().zip(0..).collect();
            let (mut expected, mut found) = (items.clone(), items.clone());
            expected.sort_by_key(|(number, _)| *number);
            sort_by_key(&mut found, |(number, _)| *number);
            prop_assert_eq!(&found, &expected);
            found.reverse();
            sort(&mut found);
            prop_assert_eq!(&found, &expected);
            sort_by(&mut found, |left, right| right.cmp(left));
            expected.reverse();
            prop_assert_eq!(found, expected);
            prop_assert_eq!(set_of(items.iter().copied()), items.iter().copied().collect());
        }
    }
}
