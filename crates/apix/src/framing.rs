//! Messages as protocols frame them: written once, however many clients get them.

use std::fmt;
use std::sync::OnceLock;

use bytes::Bytes;

/// A protocol of live clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// Plain WebSocket.
    WebSocket,
    /// Socket.IO.
    SocketIo,
}

/// The frames of one message, as far as somebody has asked for them. They follow from the message
/// and are no part of what it is.
#[derive(Clone, Default)]
pub(crate) struct Frames {
    websocket: OnceLock<Bytes>,
    socket_io: OnceLock<Bytes>,
}

impl Frames {
    pub(crate) fn get(&self, framing: Framing, write: impl FnOnce() -> Bytes) -> &Bytes {
        match framing {
            Framing::WebSocket => self.websocket.get_or_init(write),
            Framing::SocketIo => self.socket_io.get_or_init(write),
        }
    }
}

impl PartialEq for Frames {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Frames {}

impl fmt::Debug for Frames {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Frames")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_is_written_once() {
        let frames = Frames::default();
        let write = || Bytes::from_static(b"first");
        assert_eq!(frames.get(Framing::WebSocket, write), "first");
        assert_eq!(frames.get(Framing::WebSocket, || Bytes::from_static(b"again")), "first");
        assert_eq!(frames.get(Framing::SocketIo, || Bytes::from_static(b"other")), "other");
    }
}
