//! Server-sent events: bytes to frames (HTML standard, section 9.2.6), resumable and bounded. Pure.

use std::collections::VecDeque;

/// Longest line and longest event. A leader event has some 200 bytes.
const BYTES_MAX: usize = 64 * 1024;

/// One event.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Frame {
    /// Its name; `message` if it had none.
    pub name: String,
    /// Its data lines, joined by newlines.
    pub data: String,
}

/// The parser. Feed it whatever arrives, however it is cut.
#[derive(Debug, Default)]
pub struct Frames {
    /// Bytes of the line that is not finished.
    line: Vec<u8>,
    /// A carriage return ended the last line: a newline right after it belongs to it.
    after_return: bool,
    name: String,
    data: String,
    has_data: bool,
    /// Whole events that nobody has taken yet; one `push` puts in what its bytes hold.
    ready: VecDeque<Frame>,
}

impl Frames {
    /// Takes more bytes.
    ///
    /// # Errors
    /// A line or an event is longer than 64 KiB. The parser is of no use afterwards.
    pub fn push(&mut self, bytes: &[u8]) -> Result<(), String> {
        for &byte in bytes {
            let ends_return = std::mem::take(&mut self.after_return);
            match byte {
                b'\n' if ends_return => {}
                b'\n' => self.end_of_line()?,
                b'\r' => {
                    self.after_return = true;
                    self.end_of_line()?;
                }
                _ if self.line.len() >= BYTES_MAX => return Err("a line without an end".into()),
                _ => self.line.push(byte),
            }
        }
        Ok(())
    }

    fn end_of_line(&mut self) -> Result<(), String> {
        let line = std::mem::take(&mut self.line);
        if line.is_empty() {
            self.end_of_event();
            return Ok(());
        }
        let line = String::from_utf8_lossy(&line);
        let (field, value) = line.split_once(':').unwrap_or((&line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "event" => value.clone_into(&mut self.name),
            "data" => {
                if self.data.len() + value.len() >= BYTES_MAX {
                    return Err("an event without an end".into());
                }
                if self.has_data {
                    self.data.push('\n');
                }
                self.data.push_str(value);
                self.has_data = true;
            }
            // Comments (an empty field), `id` and `retry` say nothing that is needed: the term is in the data.
            _ => {}
        }
        Ok(())
    }

    fn end_of_event(&mut self) {
        let name = std::mem::take(&mut self.name);
        let data = std::mem::take(&mut self.data);
        if std::mem::take(&mut self.has_data) {
            let name = if name.is_empty() { "message".into() } else { name };
            self.ready.push_back(Frame { name, data });
        }
    }
}

impl Iterator for Frames {
    type Item = Frame;

    /// The oldest whole event; `None` until more bytes come.
    fn next(&mut self) -> Option<Frame> {
        self.ready.pop_front()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(pieces: &[&[u8]]) -> Vec<(String, String)> {
        let mut frames = Frames::default();
        let mut found = Vec::new();
        for piece in pieces {
            frames.push(piece).unwrap();
            found.extend(frames.by_ref().map(|frame| (frame.name, frame.data)));
        }
        found
    }

    #[test]
    fn what_the_server_sends() {
        let bytes =
            b"event: leader\nid: 7\ndata: {\"term\":7}\n\n: keep-alive\n\n:\n\nevent: leader\ndata: x\n\n";
        let expected =
            [("leader".to_owned(), "{\"term\":7}".to_owned()), ("leader".to_owned(), "x".to_owned())];
        assert_eq!(parse(&[bytes]), expected);
    }

    #[test]
    fn the_corners_of_the_standard() {
        let one = |text: &str| parse(&[text.as_bytes()]);
        let event = |name: &str, data: &str| vec![(name.to_owned(), data.to_owned())];
        assert_eq!(one("data: a\ndata:b\ndata\n\n"), event("message", "a\nb\n"));
        assert_eq!(one("data:  two spaces\r\n\r\n"), event("message", " two spaces"));
        assert_eq!(one("data: a\rdata: b\r\r"), event("message", "a\nb"));
        assert_eq!(one("event: leader\n\ndata: x\n\n"), event("message", "x"), "a name needs its data");
        assert_eq!(one("data: unfinished\n"), []);
        assert_eq!(one("retry: 10\nid: 3\nunknown: field\n\n"), []);
    }

    #[test]
    fn lines_and_events_are_bounded() {
        let mut frames = Frames::default();
        assert!(frames.push(&vec![b'x'; BYTES_MAX + 1]).is_err());
        let mut frames = Frames::default();
        let line = [b"data: ".as_slice(), &vec![b'x'; BYTES_MAX / 2], b"\n"].concat();
        frames.push(&line).unwrap();
        assert!(frames.push(&line).is_err(), "many short lines make a long event, too");
    }

    proptest! {
        #[test]
        fn cuts_do_not_matter(text in "(event: [a-z]{1,3}|data: ?[a-z\n:]{0,5}|: c)?[\r\n]{0,3}((data|event|id):[ a-z]{0,4}(\r\n|\n|\r)){0,6}\n\n", cut in 0usize..40) {
            let bytes = text.as_bytes();
            let cut = cut.min(bytes.len());
            let (head, tail) = bytes.split_at(cut);
            prop_assert_eq!(parse(&[bytes]), parse(&[head, tail]));
            let single: Vec<&[u8]> = bytes.chunks(1).collect();
            prop_assert_eq!(parse(&[bytes]), parse(&single));
        }
    }
}
