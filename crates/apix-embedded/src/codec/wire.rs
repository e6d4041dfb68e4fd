//! Numbers, texts and ids in a few bytes, and the checksum around them.

use apix::MessageId;
use bytes::Bytes;
use bytestring::ByteString;

use crate::checksum::crc32;

/// Writes a blob.
#[derive(Debug, Default)]
pub(crate) struct Encoder {
    out: Vec<u8>,
}

impl Encoder {
    pub(crate) fn with_capacity(bytes: usize) -> Self {
        Self { out: Vec::with_capacity(bytes) }
    }

    pub(crate) fn byte(&mut self, byte: u8) {
        self.out.push(byte);
    }

    /// Seven bits a byte, the lowest first.
    pub(crate) fn number(&mut self, mut number: u64) {
        while number >= 0x80 {
            self.out.push(number.to_le_bytes()[0] | 0x80);
            number >>= 7;
        }
        self.out.push(number.to_le_bytes()[0]);
    }

    pub(crate) fn bytes(&mut self, bytes: &[u8]) {
        self.number(bytes.len() as u64);
        self.out.extend_from_slice(bytes);
    }

    pub(crate) fn text(&mut self, text: &str) {
        self.bytes(text.as_bytes());
    }

    pub(crate) fn id(&mut self, id: MessageId) {
        self.number(id.ms);
        self.number(id.seq);
    }

    /// `None` is the one id that no event can have.
    pub(crate) fn optional_id(&mut self, id: Option<MessageId>) {
        self.id(id.unwrap_or(MessageId::MAX));
    }

    pub(crate) fn raw(&mut self, bytes: &[u8]) {
        self.out.extend_from_slice(bytes);
    }

    /// What was written so far.
    pub(crate) fn into_unsealed(self) -> Vec<u8> {
        self.out
    }

    /// The blob with its checksum.
    pub(crate) fn sealed(mut self) -> Vec<u8> {
        let crc = crc32(0, &self.out);
        self.out.extend_from_slice(&crc.to_le_bytes());
        self.out
    }
}

/// Reads a blob; `None` wherever it is not what was written.
#[derive(Debug)]
pub(crate) struct Decoder {
    left: Bytes,
}

impl Decoder {
    /// Checks and takes off the checksum.
    pub(crate) fn sealed(mut blob: Bytes) -> Option<Self> {
        let split = blob.len().checked_sub(4)?;
        let crc = blob.split_off(split);
        (crc32(0, &blob).to_le_bytes() == crc[..]).then_some(Self { left: blob })
    }

    /// A blob whose checksum was checked elsewhere.
    pub(crate) fn unsealed(blob: Bytes) -> Self {
        Self { left: blob }
    }

    pub(crate) fn byte(&mut self) -> Option<u8> {
        let byte = *self.left.first()?;
        let _ = self.left.split_to(1);
        Some(byte)
    }

    pub(crate) fn number(&mut self) -> Option<u64> {
        let mut number = 0_u64;
        for (index, &byte) in self.left.iter().enumerate().take(10) {
            let bits = u64::from(byte & 0x7F);
            number |= bits.checked_shl(u32::try_from(index * 7).ok()?)?;
            if byte & 0x80 == 0 {
                let _ = self.left.split_to(index + 1);
                return Some(number);
            }
        }
        None
    }

    pub(crate) fn bytes(&mut self) -> Option<Bytes> {
        let length = usize::try_from(self.number()?).ok()?;
        self.raw(length)
    }

    pub(crate) fn text(&mut self) -> Option<ByteString> {
        ByteString::try_from(self.bytes()?).ok()
    }

    pub(crate) fn id(&mut self) -> Option<MessageId> {
        Some(MessageId::new(self.number()?, self.number()?))
    }

    pub(crate) fn optional_id(&mut self) -> Option<Option<MessageId>> {
        let id = self.id()?;
        Some((id != MessageId::MAX).then_some(id))
    }

    pub(crate) fn raw(&mut self, length: usize) -> Option<Bytes> {
        (length <= self.left.len()).then(|| self.left.split_to(length))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_is_written_is_read(
            numbers in prop::collection::vec(any::<u64>(), 0..8), text in ".{0,20}",
            ms: u64, seq: u64,
        ) {
            let mut encoder = Encoder::default();
            for number in &numbers {
                encoder.number(*number);
            }
            encoder.text(&text);
            encoder.id(MessageId::new(ms, seq));
            let blob = Bytes::from(encoder.sealed());
            let mut decoder = Decoder::sealed(blob.clone()).unwrap();
            for number in &numbers {
                prop_assert_eq!(decoder.number(), Some(*number));
            }
            let read = decoder.text();
            prop_assert_eq!(read.as_deref(), Some(text.as_str()));
            prop_assert_eq!(decoder.id(), Some(MessageId::new(ms, seq)));
            for at in 0..blob.len() {
                let mut damaged = blob.to_vec();
                damaged[at] ^= 0x10;
                prop_assert!(Decoder::sealed(damaged.into()).is_none());
            }
        }
    }
}
