//! The one place where bytes become values and values bytes: a bounds-checked reader and a writer,
//! both little-endian. Wire and disk speak through them; short input, trailing bytes and values out of
//! range are typed errors, and nothing is allocated before its length has been checked.

use std::fmt;

/// Why bytes could not be read as what they should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DecodeError {
    /// The input ends inside the named item.
    Short { what: &'static str },
    /// The input goes on after its last item.
    Trailing { what: &'static str, bytes: usize },
    /// A length or count is above its limit.
    TooLarge { what: &'static str, found: u64, limit: u64 },
    /// A value that the item cannot have.
    Invalid { what: &'static str },
}

impl fmt::Display for DecodeError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DecodeError::Short { what } => write!(formatter, "{what}: the input ends too early"),
            DecodeError::Trailing { what, bytes } => write!(formatter, "{what}: {bytes} bytes too many"),
            DecodeError::TooLarge { what, found, limit } => {
                write!(formatter, "{what}: {found} is above the limit of {limit}")
            }
            DecodeError::Invalid { what } => write!(formatter, "{what}: not a possible value"),
        }
    }
}

impl std::error::Error for DecodeError {}

/// Reads values off the front of a slice.
#[derive(Debug, Clone)]
pub struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub fn new(bytes: &'a [u8]) -> Reader<'a> {
        Reader { rest: bytes }
    }

    /// How many bytes are left.
    pub fn remaining(&self) -> usize {
        self.rest.len()
    }

    pub fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// The next `count` bytes.
    pub fn bytes(&mut self, count: usize, what: &'static str) -> Result<&'a [u8], DecodeError> {
        if count > self.rest.len() {
            return Err(DecodeError::Short { what });
        }
        let (taken, rest) = self.rest.split_at(count);
        self.rest = rest;
        Ok(taken)
    }

    pub fn array<const N: usize>(&mut self, what: &'static str) -> Result<[u8; N], DecodeError> {
        let taken = self.bytes(N, what)?;
        Ok(taken.try_into().expect("bytes() gives exactly N"))
    }

    pub fn u8(&mut self, what: &'static str) -> Result<u8, DecodeError> {
        Ok(self.array::<1>(what)?[0])
    }

    pub fn u16(&mut self, what: &'static str) -> Result<u16, DecodeError> {
        Ok(u16::from_le_bytes(self.array(what)?))
    }

    pub fn u32(&mut self, what: &'static str) -> Result<u32, DecodeError> {
        Ok(u32::from_le_bytes(self.array(what)?))
    }

    pub fn u64(&mut self, what: &'static str) -> Result<u64, DecodeError> {
        Ok(u64::from_le_bytes(self.array(what)?))
    }

    pub fn i64(&mut self, what: &'static str) -> Result<i64, DecodeError> {
        Ok(i64::from_le_bytes(self.array(what)?))
    }

    /// 0 or 1; anything else is refused, so that every value has one encoding.
    pub fn flag(&mut self, what: &'static str) -> Result<bool, DecodeError> {
        match self.u8(what)? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(DecodeError::Invalid { what }),
        }
    }

    /// Bytes behind a u8 length.
    pub fn bytes8(&mut self, limit: usize, what: &'static str) -> Result<&'a [u8], DecodeError> {
        let count = self.u8(what)? as usize;
        self.limited(count, limit, what)
    }

    /// Bytes behind a u16 length.
    pub fn bytes16(&mut self, limit: usize, what: &'static str) -> Result<&'a [u8], DecodeError> {
        let count = self.u16(what)? as usize;
        self.limited(count, limit, what)
    }

    /// Bytes behind a u32 length.
    pub fn bytes32(&mut self, limit: usize, what: &'static str) -> Result<&'a [u8], DecodeError> {
        let count = self.u32(what)? as usize;
        self.limited(count, limit, what)
    }

    /// A u32 count of at most `limit`.
    pub fn count32(&mut self, limit: usize, what: &'static str) -> Result<usize, DecodeError> {
        let count = self.u32(what)? as usize;
        check_limit(count, limit, what)?;
        Ok(count)
    }

    /// UTF-8 text behind a u16 length.
    pub fn text16(&mut self, limit: usize, what: &'static str) -> Result<String, DecodeError> {
        let bytes = self.bytes16(limit, what)?;
        String::from_utf8(bytes.to_vec()).map_err(|_| DecodeError::Invalid { what })
    }

    /// Everything that is left.
    pub fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.rest)
    }

    /// The end: nothing may be left.
    pub fn finish(self, what: &'static str) -> Result<(), DecodeError> {
        match self.rest.len() {
            0 => Ok(()),
            bytes => Err(DecodeError::Trailing { what, bytes }),
        }
    }

    fn limited(&mut self, count: usize, limit: usize, what: &'static str) -> Result<&'a [u8], DecodeError> {
        check_limit(count, limit, what)?;
        self.bytes(count, what)
    }
}

fn check_limit(found: usize, limit: usize, what: &'static str) -> Result<(), DecodeError> {
    if found > limit {
        return Err(DecodeError::TooLarge { what, found: found as u64, limit: limit as u64 });
    }
    Ok(())
}

/// What can be appended to a byte vector, little-endian: the counterpart of [`Reader`].
pub trait Writer {
    fn put_bytes(&mut self, bytes: &[u8]);

    fn put_u8(&mut self, value: u8) {
        self.put_bytes(&[value]);
    }
    fn put_u16(&mut self, value: u16) {
        self.put_bytes(&value.to_le_bytes());
    }
    fn put_u32(&mut self, value: u32) {
        self.put_bytes(&value.to_le_bytes());
    }
    fn put_u64(&mut self, value: u64) {
        self.put_bytes(&value.to_le_bytes());
    }
    fn put_i64(&mut self, value: i64) {
        self.put_bytes(&value.to_le_bytes());
    }
    fn put_flag(&mut self, value: bool) {
        self.put_u8(u8::from(value));
    }
    /// Bytes behind a u8 length; the caller's type keeps them within it.
    fn put_bytes8(&mut self, bytes: &[u8]) {
        self.put_u8(u8::try_from(bytes.len()).expect("the type bounds it below 256 bytes"));
        self.put_bytes(bytes);
    }
    /// Bytes behind a u16 length; the caller's type keeps them within it.
    fn put_bytes16(&mut self, bytes: &[u8]) {
        self.put_u16(u16::try_from(bytes.len()).expect("the type bounds it below 64 KiB"));
        self.put_bytes(bytes);
    }
    /// Bytes behind a u32 length; the caller's type keeps them within it.
    fn put_bytes32(&mut self, bytes: &[u8]) {
        self.put_u32(u32::try_from(bytes.len()).expect("the type bounds it below 4 GiB"));
        self.put_bytes(bytes);
    }
}

impl Writer for Vec<u8> {
    fn put_bytes(&mut self, bytes: &[u8]) {
        self.extend_from_slice(bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_come_back_as_they_were_put() {
        let mut bytes = Vec::new();
        bytes.put_u8(7);
        bytes.put_u16(0x1234);
        bytes.put_u32(0xdead_beef);
        bytes.put_u64(u64::MAX - 1);
        bytes.put_i64(-5);
        bytes.put_flag(true);
        bytes.put_bytes8(b"a");
        bytes.put_bytes16(b"bc");
        bytes.put_bytes32(b"def");
        let mut reader = Reader::new(&bytes);
        assert_eq!(reader.u8("a").unwrap(), 7);
        assert_eq!(reader.u16("b").unwrap(), 0x1234);
        assert_eq!(reader.u32("c").unwrap(), 0xdead_beef);
        assert_eq!(reader.u64("d").unwrap(), u64::MAX - 1);
        assert_eq!(reader.i64("e").unwrap(), -5);
        assert!(reader.flag("f").unwrap());
        assert_eq!(reader.bytes8(1, "g").unwrap(), b"a");
        assert_eq!(reader.bytes16(2, "h").unwrap(), b"bc");
        assert_eq!(reader.bytes32(3, "i").unwrap(), b"def");
        reader.finish("all").unwrap();
    }

    #[test]
    fn short_trailing_large_and_impossible_input_are_told_apart() {
        assert_eq!(Reader::new(&[1]).u16("x"), Err(DecodeError::Short { what: "x" }));
        assert_eq!(Reader::new(&[1]).finish("x"), Err(DecodeError::Trailing { what: "x", bytes: 1 }));
        assert_eq!(
            Reader::new(&[9, 0]).bytes16(8, "x"),
            Err(DecodeError::TooLarge { what: "x", found: 9, limit: 8 })
        );
        assert_eq!(Reader::new(&[2]).flag("x"), Err(DecodeError::Invalid { what: "x" }));
    }
}
