//! The tables of a vault's index: what has a type here is bytes in the database. All its tables are of one type there,
//! of bytes that lead to bytes, since the database's code is compiled once for each type of table, some 40 KiB each.

use std::borrow::Cow;
use std::marker::PhantomData;
use std::ops::Bound;

use redb::{ReadTransaction, ReadableTable, TableDefinition, WriteTransaction};

use super::index::IndexError;

type Bytes = &'static [u8];

/// What stands in a row, or finds it.
pub trait Stored: Sized {
    fn to_bytes(&self) -> Cow<'_, [u8]>;
    /// None for what is not the form of this.
    fn of_bytes(bytes: &[u8]) -> Option<Self>;
}

/// A table by its name.
pub struct Definition<K, V> {
    name: &'static str,
    form: PhantomData<fn(K) -> V>,
}

impl<K, V> Definition<K, V> {
    pub const fn new(name: &'static str) -> Definition<K, V> {
        Definition { name, form: PhantomData }
    }

    fn table(&self) -> TableDefinition<'static, Bytes, Bytes> {
        TableDefinition::new(self.name)
    }

    pub fn read(&self, transaction: &ReadTransaction) -> Result<ReadRows<K, V>, redb::TableError> {
        Ok(Rows { table: transaction.open_table(self.table())?, form: PhantomData })
    }

    pub fn write<'t>(&self, transaction: &'t WriteTransaction) -> Result<WriteRows<'t, K, V>, redb::TableError> {
        Ok(Rows { table: transaction.open_table(self.table())?, form: PhantomData })
    }
}

/// An open table.
pub struct Rows<T, K, V> {
    table: T,
    form: PhantomData<fn(K) -> V>,
}

pub type ReadRows<K, V> = Rows<redb::ReadOnlyTable<Bytes, Bytes>, K, V>;
pub type WriteRows<'t, K, V> = Rows<redb::Table<'t, Bytes, Bytes>, K, V>;

/// The rows that are wanted, from the first.
type Found<'t, K, V> = Walk<redb::Range<'t, Bytes, Bytes>, K, V>;

impl<T: ReadableTable<Bytes, Bytes>, K: Stored, V: Stored> Rows<T, K, V> {
    pub fn get(&self, key: &K) -> Result<Option<V>, IndexError> {
        match self.table.get(&*key.to_bytes())? {
            Some(row) => V::of_bytes(row.value()).map(Some).ok_or_else(wrong_row),
            None => Ok(None),
        }
    }

    pub fn count(&self) -> Result<u64, IndexError> {
        Ok(self.table.len()?)
    }

    pub fn iter(&self) -> Result<Found<'_, K, V>, IndexError> {
        self.range(Bound::Unbounded, Bound::Unbounded)
    }

    /// The rows between two keys, in the order of their bytes.
    pub fn range(&self, from: Bound<&K>, to: Bound<&K>) -> Result<Found<'_, K, V>, IndexError> {
        let (from, to) = (from.map(K::to_bytes), to.map(K::to_bytes));
        let bounds: (Bound<&[u8]>, Bound<&[u8]>) = (from.as_ref().map(|key| &**key), to.as_ref().map(|key| &**key));
        Ok(Walk { rows: self.table.range::<&[u8]>(bounds)?, form: PhantomData })
    }
}

impl<K: Stored, V: Stored> WriteRows<'_, K, V> {
    pub fn insert(&mut self, key: &K, row: &V) -> Result<(), IndexError> {
        Ok(self.table.insert(&*key.to_bytes(), &*row.to_bytes()).map(drop)?)
    }

    pub fn remove(&mut self, key: &K) -> Result<(), IndexError> {
        Ok(self.table.remove(&*key.to_bytes()).map(drop)?)
    }
}

/// Goes over rows.
pub struct Walk<I, K, V> {
    rows: I,
    form: PhantomData<fn(K) -> V>,
}

type Row<'t> = (redb::AccessGuard<'t, Bytes>, redb::AccessGuard<'t, Bytes>);

fn open_row<K: Stored, V: Stored>(row: Result<Row<'_>, redb::StorageError>) -> Result<(K, V), IndexError> {
    let (key, row) = row?;
    K::of_bytes(key.value()).zip(V::of_bytes(row.value())).ok_or_else(wrong_row)
}

impl<'t, I: Iterator<Item = Result<Row<'t>, redb::StorageError>>, K: Stored, V: Stored> Iterator for Walk<I, K, V> {
    type Item = Result<(K, V), IndexError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.rows.next().map(open_row)
    }
}

impl<'t, I, K: Stored, V: Stored> DoubleEndedIterator for Walk<I, K, V>
where
    I: DoubleEndedIterator<Item = Result<Row<'t>, redb::StorageError>>,
{
    fn next_back(&mut self) -> Option<Self::Item> {
        self.rows.next_back().map(open_row)
    }
}

fn wrong_row() -> IndexError {
    IndexError::Wrong("a row is not what its table has")
}

impl<const N: usize> Stored for [u8; N] {
    fn to_bytes(&self) -> Cow<'_, [u8]> {
        Cow::Borrowed(self)
    }

    fn of_bytes(bytes: &[u8]) -> Option<[u8; N]> {
        bytes.try_into().ok()
    }
}

impl Stored for () {
    fn to_bytes(&self) -> Cow<'_, [u8]> {
        Cow::Borrowed(&[])
    }

    fn of_bytes(bytes: &[u8]) -> Option<()> {
        bytes.is_empty().then_some(())
    }
}

/// Most significant byte first, so that rows are in the order of their numbers.
impl Stored for u32 {
    fn to_bytes(&self) -> Cow<'_, [u8]> {
        Cow::Owned(self.to_be_bytes().to_vec())
    }

    fn of_bytes(bytes: &[u8]) -> Option<u32> {
        bytes.try_into().ok().map(u32::from_be_bytes)
    }
}

impl Stored for u64 {
    fn to_bytes(&self) -> Cow<'_, [u8]> {
        Cow::Owned(self.to_be_bytes().to_vec())
    }

    fn of_bytes(bytes: &[u8]) -> Option<u64> {
        bytes.try_into().ok().map(u64::from_be_bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_the_form_of_a_row_is_no_row() {
        assert_eq!(u32::of_bytes(&7u32.to_bytes()), Some(7));
        assert_eq!(u64::of_bytes(&7u64.to_bytes()), Some(7));
        assert_eq!(u32::of_bytes(&7u64.to_bytes()), None);
        assert_eq!(<[u8; 2]>::of_bytes(&[1, 2]), Some([1, 2]));
        assert_eq!(<[u8; 2]>::of_bytes(&[1]), None);
        assert_eq!((<()>::of_bytes(&[]), <()>::of_bytes(&[1])), (Some(()), None));
        assert!(1u32.to_bytes() < 256u32.to_bytes());
    }
}
