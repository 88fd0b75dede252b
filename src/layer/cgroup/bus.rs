//! The D-Bus wire format, as far as one call to a service manager and its answers take.
//!
//! Own code, for these lines are less than what the crates bring: zbus an asynchronous runtime,
//! dbus a C library, rustbus second copies of nix, syn and thiserror and a login that nothing bounds in
//! time. What comes in is read by position, within its message, and into borrowed text only.
//!
//! Source: D-Bus Specification 0.43, "Type System", "Message Protocol".

/// The longest message that is read. A manager's are a few KiB.
pub const MESSAGE_MAX: usize = 1 << 20;
/// Bytes before the header fields.
const FIXED: usize = 16;

const METHOD_CALL: u8 = 1;
const METHOD_RETURN: u8 = 2;
const ERROR: u8 = 3;
const SIGNAL: u8 = 4;

const FIELD_PATH: u8 = 1;
const FIELD_INTERFACE: u8 = 2;
const FIELD_MEMBER: u8 = 3;
const FIELD_ERROR_NAME: u8 = 4;
const FIELD_REPLY_SERIAL: u8 = 5;
const FIELD_DESTINATION: u8 = 6;
const FIELD_SIGNATURE: u8 = 8;

/// Whom a call goes to and what it is called.
#[derive(Clone, Copy, Debug)]
pub struct Call<'a> {
    /// The bus name; direct connections ignore it.
    pub destination: &'a str,
    /// The object.
    pub path: &'a str,
    /// The interface.
    pub interface: &'a str,
    /// The method.
    pub member: &'a str,
    /// The types of the arguments.
    pub signature: &'a str,
}

impl Call<'_> {
    /// The whole message, in little endian.
    pub fn message(&self, serial: u32, arguments: &Writer) -> Vec<u8> {
        let mut message = Writer::default();
        message.bytes.extend_from_slice(&[b'l', METHOD_CALL, 0, 1]);
        message.u32(arguments.bytes.len() as u32);
        message.u32(serial);
        message.array(8, |fields| {
            for (code, kind, text) in [
                (FIELD_PATH, "o", self.path),
                (FIELD_INTERFACE, "s", self.interface),
                (FIELD_MEMBER, "s", self.member),
                (FIELD_DESTINATION, "s", self.destination),
            ] {
                fields.align(8);
                fields.bytes.push(code);
                fields.signature(kind);
                fields.string(text);
            }
            fields.align(8);
            fields.bytes.push(FIELD_SIGNATURE);
            fields.signature("g");
            fields.signature(self.signature);
        });
        message.align(8);
        message.bytes.extend_from_slice(&arguments.bytes);
        message.bytes
    }
}

/// Puts values behind each other, each at its alignment.
#[derive(Clone, Debug, Default)]
pub struct Writer {
    bytes: Vec<u8>,
}

impl Writer {
    fn align(&mut self, to: usize) {
        self.bytes.resize(self.bytes.len().next_multiple_of(to), 0);
    }

    /// `u`
    pub fn u32(&mut self, value: u32) {
        self.align(4);
        self.bytes.extend_from_slice(&value.to_le_bytes());
    }

    /// `s` and `o`
    pub fn string(&mut self, text: &str) {
        self.u32(text.len() as u32);
        self.bytes.extend_from_slice(text.as_bytes());
        self.bytes.push(0);
    }

    fn signature(&mut self, text: &str) {
        self.bytes.push(text.len() as u8);
        self.bytes.extend_from_slice(text.as_bytes());
        self.bytes.push(0);
    }

    /// `a`: what `fill` writes, whose elements start at multiples of `alignment`.
    pub fn array(&mut self, alignment: usize, fill: impl FnOnce(&mut Writer)) {
        self.u32(0);
        let length_at = self.bytes.len() - 4;
        self.align(alignment);
        let start = self.bytes.len();
        fill(self);
        let length = (self.bytes.len() - start) as u32;
        self.bytes[length_at..length_at + 4].copy_from_slice(&length.to_le_bytes());
    }

    /// One `(sv)` of an `a(sv)`: the value's type and what `fill` writes.
    pub fn property(&mut self, name: &str, signature: &str, fill: impl FnOnce(&mut Writer)) {
        self.align(8);
        self.string(name);
        self.signature(signature);
        fill(self);
    }
}

/// A message breaks the format, or is longer than [`MESSAGE_MAX`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the answer is no D-Bus message")]
pub struct Malformed;

/// What a message is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Message<'a> {
    /// A call was answered.
    Return {
        /// The call's serial.
        to: u32,
        /// The answer.
        body: Body<'a>,
    },
    /// A call was refused.
    Error {
        /// The call's serial.
        to: u32,
        /// The error's name.
        name: &'a str,
        /// Its words, if it has any.
        text: &'a str,
    },
    /// Something happened.
    Signal {
        /// What.
        member: &'a str,
        /// The particulars.
        body: Body<'a>,
    },
    /// A call to us.
    Other,
}

/// The arguments of a message.
pub type Body<'a> = Reader<'a>;

/// The length of the message that starts with these bytes; `None` when they are too few to tell.
///
/// # Errors
/// They start no message, or one that is longer than [`MESSAGE_MAX`].
pub fn length(bytes: &[u8]) -> Result<Option<usize>, Malformed> {
    let Some(fixed) = bytes.get(..FIXED) else { return Ok(None) };
    let mut reader = Reader::of(fixed)?;
    reader.position = 4;
    let body = reader.u32()? as usize;
    reader.position = 12;
    let fields = reader.u32()? as usize;
    if body > MESSAGE_MAX || fields > MESSAGE_MAX {
        return Err(Malformed);
    }
    let length = (FIXED + fields).next_multiple_of(8) + body;
    if length > MESSAGE_MAX { Err(Malformed) } else { Ok(Some(length)) }
}

impl<'a> Message<'a> {
    /// Reads one whole message.
    ///
    /// # Errors
    /// It breaks the format.
    pub fn parse(bytes: &'a [u8]) -> Result<Message<'a>, Malformed> {
        if length(bytes)? != Some(bytes.len()) {
            return Err(Malformed);
        }
        let mut reader = Reader::of(bytes)?;
        let kind = *bytes.get(1).ok_or(Malformed)?;
        reader.position = 12;
        let fields_end = FIXED + reader.u32()? as usize;
        let (mut member, mut error, mut reply_to, mut signature) = (None, None, None, "");
        while reader.position < fields_end {
            reader.align(8)?;
            let code = reader.byte()?;
            match (code, reader.signature()?) {
                (FIELD_MEMBER, "s") => member = Some(reader.string()?),
                (FIELD_ERROR_NAME, "s") => error = Some(reader.string()?),
                (FIELD_REPLY_SERIAL, "u") => reply_to = Some(reader.u32()?),
                (FIELD_SIGNATURE, "g") => signature = reader.signature()?,
                (_, "s" | "o") => drop(reader.string()?),
                (_, "u") => drop(reader.u32()?),
                (_, "g") => drop(reader.signature()?),
                _ => return Err(Malformed),
            }
        }
        if reader.position != fields_end {
            return Err(Malformed);
        }
        reader.align(8)?;
        let mut body = Reader { bytes: reader.bytes.get(reader.position..).ok_or(Malformed)?, ..reader };
        body.position = 0;
        Ok(match kind {
            METHOD_RETURN => Message::Return { to: reply_to.ok_or(Malformed)?, body },
            ERROR => Message::Error {
                to: reply_to.ok_or(Malformed)?,
                name: error.ok_or(Malformed)?,
                text: if signature.starts_with('s') { body.string()? } else { "" },
            },
            SIGNAL => Message::Signal { member: member.ok_or(Malformed)?, body },
            _ => Message::Other,
        })
    }
}

/// Takes values from behind each other, each at its alignment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reader<'a> {
    bytes: &'a [u8],
    position: usize,
    big_endian: bool,
}

impl<'a> Reader<'a> {
    fn of(bytes: &'a [u8]) -> Result<Reader<'a>, Malformed> {
        let big_endian = match bytes.first() {
            Some(b'l') => false,
            Some(b'B') => true,
            _ => return Err(Malformed),
        };
        Ok(Reader { bytes, position: 0, big_endian })
    }

    fn align(&mut self, to: usize) -> Result<(), Malformed> {
        let aligned = self.position.next_multiple_of(to);
        if aligned > self.bytes.len() {
            return Err(Malformed);
        }
        self.position = aligned;
        Ok(())
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8], Malformed> {
        let end = self.position.checked_add(length).ok_or(Malformed)?;
        let taken = self.bytes.get(self.position..end).ok_or(Malformed)?;
        self.position = end;
        Ok(taken)
    }

    fn byte(&mut self) -> Result<u8, Malformed> {
        self.take(1)?.first().copied().ok_or(Malformed)
    }

    fn text(&mut self, length: usize) -> Result<&'a str, Malformed> {
        let text = std::str::from_utf8(self.take(length)?).map_err(|_| Malformed)?;
        if self.byte()? == 0 { Ok(text) } else { Err(Malformed) }
    }

    fn signature(&mut self) -> Result<&'a str, Malformed> {
        let length = self.byte()?;
        self.text(usize::from(length))
    }

    /// `u`
    ///
    /// # Errors
    /// The message ends before.
    pub fn u32(&mut self) -> Result<u32, Malformed> {
        self.align(4)?;
        let bytes: [u8; 4] = self.take(4)?.try_into().map_err(|_| Malformed)?;
        Ok(if self.big_endian { u32::from_be_bytes(bytes) } else { u32::from_le_bytes(bytes) })
    }

    /// `s` and `o`
    ///
    /// # Errors
    /// The message ends before, or it is no text.
    pub fn string(&mut self) -> Result<&'a str, Malformed> {
        let length = self.u32()? as usize;
        self.text(length)
    }
}

/// What a manager says, for tests: its messages written by the same hand as ours.
#[cfg(test)]
pub(super) mod spoken {
    use super::*;

    /// A call is answered.
    pub fn answer(to: u32, body: impl FnOnce(&mut Writer)) -> Vec<u8> {
        let fields = |fields: &mut Writer| field(fields, FIELD_REPLY_SERIAL, "u", |f| f.u32(to));
        message(METHOD_RETURN, fields, body)
    }

    /// A call is refused.
    pub fn refusal(to: u32, name: &str, text: &str) -> Vec<u8> {
        let fields = |fields: &mut Writer| {
            field(fields, FIELD_REPLY_SERIAL, "u", |f| f.u32(to));
            field(fields, FIELD_ERROR_NAME, "s", |f| f.string(name));
            field(fields, FIELD_SIGNATURE, "g", |f| f.signature("s"));
        };
        message(ERROR, fields, |body| body.string(text))
    }

    /// Something happens.
    pub fn signal(member: &str, body: impl FnOnce(&mut Writer)) -> Vec<u8> {
        message(SIGNAL, |fields| field(fields, FIELD_MEMBER, "s", |f| f.string(member)), body)
    }

    fn message(kind: u8, fields: impl FnOnce(&mut Writer), body: impl FnOnce(&mut Writer)) -> Vec<u8> {
        let mut arguments = Writer::default();
        body(&mut arguments);
        let mut whole = Writer { bytes: vec![b'l', kind, 1, 1] };
        whole.u32(arguments.bytes.len() as u32);
        whole.u32(7);
        whole.array(8, fields);
        whole.align(8);
        whole.bytes.extend_from_slice(&arguments.bytes);
        whole.bytes
    }

    fn field(writer: &mut Writer, code: u8, kind: &str, fill: impl FnOnce(&mut Writer)) {
        writer.align(8);
        writer.bytes.push(code);
        writer.signature(kind);
        fill(writer);
    }
}

#[cfg(test)]
mod tests {
    use super::spoken::{answer, refusal, signal};
    use super::*;

    #[test]
    fn a_call_is_written_as_the_specification_lays_it_out() {
        let call = Call { destination: "d", path: "/p", interface: "i", member: "m", signature: "s" };
        let mut arguments = Writer::default();
        arguments.string("hello");
        let bytes = call.message(9, &arguments);
        assert_eq!(bytes[..16], [b'l', 1, 0, 1, 10, 0, 0, 0, 9, 0, 0, 0, 71, 0, 0, 0]);
        assert_eq!(bytes[16..26], [1, 1, b'o', 0, 2, 0, 0, 0, b'/', b'p']);
        assert_eq!(bytes[80..87], [8, 1, b'g', 0, 1, b's', 0]);
        assert_eq!(bytes[88..], [5, 0, 0, 0, b'h', b'e', b'l', b'l', b'o', 0]);
        assert_eq!(length(&bytes), Ok(Some(bytes.len())));
        assert_eq!(Message::parse(&bytes), Ok(Message::Other));
    }

    #[test]
    fn an_answer_gives_its_arguments() {
        let bytes = answer(9, |body| body.string("/job/1"));
        let Ok(Message::Return { to: 9, mut body }) = Message::parse(&bytes) else { panic!("{bytes:?}") };
        assert_eq!(body.string(), Ok("/job/1"));
        assert_eq!(body.u32(), Err(Malformed));
    }

    #[test]
    fn a_refusal_gives_its_name_and_words() {
        let bytes = refusal(9, "org.example.No", "not you");
        assert_eq!(
            Message::parse(&bytes),
            Ok(Message::Error { to: 9, name: "org.example.No", text: "not you" })
        );
    }

    #[test]
    fn a_message_cut_anywhere_is_refused_and_not_waited_for_beyond_its_length() {
        let bytes = signal("JobRemoved", |body| {
            body.u32(1);
            body.string("/job/1");
        });
        assert!(matches!(Message::parse(&bytes), Ok(Message::Signal { member: "JobRemoved", .. })));
        for cut in 0..bytes.len() {
            assert_eq!(Message::parse(&bytes[..cut]), Err(Malformed), "cut at {cut}");
        }
        let mut huge = bytes;
        huge[4..8].copy_from_slice(&u32::MAX.to_le_bytes());
        assert_eq!(length(&huge), Err(Malformed));
    }
}
