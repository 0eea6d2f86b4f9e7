//! `EXPLAIN`: a node says why things are as they are. A control of our own; the original answers it
//! with -1, as every number that it does not know.
//!
//! The answer is a list of statements: each about one topic, with a text for people. A topic may be
//! added at any time, and a reader shows what it does not know as it is; any other change of the
//! layout is a new version.

use bytes::{Buf, BufMut};

use crate::text::{decode_strn, encode_strn};
use crate::wire::{decode_list, encode_list, to_u32};
use crate::{DecodeError, Pnn, TimeVal, Wire};

/// Most statements in one answer.
pub const MOST_STATEMENTS: usize = 2048;

/// Longest text of a statement, in bytes.
pub const LONGEST_TEXT: usize = 2048;

/// What a statement is about. Numbers without a name are kept.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Topic(pub u32);

impl Topic {
    /// Run state and recovery mode of the node that answers, since it started.
    pub const STATE: Self = Self(1);
    /// Whom it follows since when, and why; about nobody if there is no leader.
    pub const LEADER: Self = Self(2);
    /// The last recovery that it led: from, to, why and how it ended. Without an end it still runs.
    pub const RECOVERY: Self = Self(3);
    /// One phase of that recovery, in order.
    pub const PHASE: Self = Self(4);
    /// The last takeover run that it led.
    pub const TAKEOVER_RUN: Self = Self(5);
    /// A node that is banned, since when and until when, and why.
    pub const BAN: Self = Self(6);
    /// An event that fails on this node: since when, when last, which script and what it said.
    pub const EVENT: Self = Self(7);
    /// A peer that it cannot reach, since when, and why.
    pub const UNREACHABLE: Self = Self(8);
    /// Something that was decided or happened; these stand in order.
    pub const DECISION: Self = Self(9);
    /// The last recovery that it took part in, whoever led it.
    pub const TOOK_PART: Self = Self(10);

    /// A word for it; `None` for a topic of a later version.
    pub fn name(self) -> Option<&'static str> {
        Some(match self {
            Self::STATE => "STATE",
            Self::LEADER => "LEADER",
            Self::RECOVERY => "RECOVERY",
            Self::PHASE => "PHASE",
            Self::TAKEOVER_RUN => "TAKEOVER_RUN",
            Self::BAN => "BAN",
            Self::EVENT => "EVENT",
            Self::UNREACHABLE => "UNREACHABLE",
            Self::DECISION => "DECISION",
            Self::TOOK_PART => "TOOK_PART",
            _ => return None,
        })
    }
}

impl Wire for Topic {
    const MIN_LEN: usize = 4;

    fn encode(&self, out: &mut impl BufMut) {
        self.0.encode(out);
    }

    fn decode(src: &mut impl Buf) -> Result<Self, DecodeError> {
        u32::decode(src).map(Self)
    }
}

/// One thing that a node says.
///
/// | offset | size | field                                          |
/// |-------:|-----:|------------------------------------------------|
/// |      0 |    4 | `topic`                                        |
/// |      4 |    4 | `about`; 0xFFFFFFFF: no node                   |
/// |      8 |   16 | `since`; zero: not known                       |
/// |     24 |   16 | `until`; zero: it lasts, or has no end         |
/// |     40 |    4 | length of the text with its NUL; 0 without one |
/// |     44 |      | `text`, UTF-8, at most [`LONGEST_TEXT`] bytes  |
///
/// The next statement follows without padding.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Statement {
    pub topic: Topic,
    pub about: Option<Pnn>,
    /// By the clock of the node that says it, like `until`.
    pub since: TimeVal,
    pub until: TimeVal,
    pub text: String,
}

impl Wire for Statement {
    const MIN_LEN: usize = 44;

    /// A text that is too long is cut.
    fn encode(&self, out: &mut impl BufMut) {
        self.topic.encode(out);
        self.about.encode(out);
        self.since.encode(out);
        self.until.encode(out);
        encode_strn(cut(&self.text), out);
    }

    fn decode(src: &mut impl Buf) -> Result<Self, DecodeError> {
        let statement = Self {
            topic: Wire::decode(src)?,
            about: Wire::decode(src)?,
            since: Wire::decode(src)?,
            until: Wire::decode(src)?,
            text: decode_strn(src, "text of a statement")?,
        };
        match statement.text.len() {
            0..=LONGEST_TEXT => Ok(statement),
            length => Err(DecodeError::BadValue {
                field: "length of a statement",
                value: length as u64,
            }),
        }
    }
}

/// Not more than the longest text, and no half character.
fn cut(text: &str) -> &str {
    let mut ends = (0..=text.len().min(LONGEST_TEXT)).rev();
    let end = ends.find(|end| text.is_char_boundary(*end));
    text.get(..end.unwrap_or(0)).unwrap_or_default()
}

/// All that a node says.
///
/// | offset | size | field                  |
/// |-------:|-----:|------------------------|
/// |      0 |    4 | version: 1             |
/// |      4 |    4 | `pnn`                  |
/// |      8 |   16 | `now`                  |
/// |     24 |    4 | number of statements, at most [`MOST_STATEMENTS`] |
/// |     28 |      | the statements         |
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Explanation {
    /// The node that says it.
    pub pnn: Pnn,
    /// Its clock.
    pub now: TimeVal,
    pub statements: Vec<Statement>,
}

impl Explanation {
    /// The layout that is described here.
    pub const VERSION: u32 = 1;

    /// What is said about a topic.
    pub fn about(&self, topic: Topic) -> impl DoubleEndedIterator<Item = &Statement> {
        self.statements
            .iter()
            .filter(move |statement| statement.topic == topic)
    }
}

impl Wire for Explanation {
    const MIN_LEN: usize = 28;

    /// Statements beyond the most that there may be are left out.
    fn encode(&self, out: &mut impl BufMut) {
        let count = self.statements.len().min(MOST_STATEMENTS);
        let statements = self.statements.get(..count).unwrap_or_default();
        Self::VERSION.encode(out);
        self.pnn.encode(out);
        self.now.encode(out);
        to_u32(count).encode(out);
        encode_list(statements, out);
    }

    fn decode(src: &mut impl Buf) -> Result<Self, DecodeError> {
        let bad = |field, value: u32| {
            let value = value.into();
            Err(DecodeError::BadValue { field, value })
        };
        let version = u32::decode(src)?;
        if version != Self::VERSION {
            return bad("version of the explanation", version);
        }
        let (pnn, now) = (Wire::decode(src)?, Wire::decode(src)?);
        let count = u32::decode(src)?;
        if count > to_u32(MOST_STATEMENTS) {
            return bad("number of statements", count);
        }
        Ok(Self {
            pnn,
            now,
            statements: decode_list(count, src)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;

    use super::*;

    fn explanation(text: &str) -> Explanation {
        let at = |sec| TimeVal { sec, usec: 5 };
        Explanation {
            pnn: Pnn::new(2).unwrap(),
            now: at(1000),
            statements: vec![Statement {
                topic: Topic::BAN,
                about: Pnn::new(1),
                since: at(900),
                until: at(1200),
                text: text.to_owned(),
            }],
        }
    }

    fn encoded(explanation: &Explanation) -> BytesMut {
        let mut bytes = BytesMut::new();
        explanation.encode(&mut bytes);
        bytes
    }

    #[test]
    fn the_layout_is_the_one_described() {
        let bytes = encoded(&explanation("why"));
        assert_eq!(bytes.len(), 28 + 44 + 4);
        let number = |at: usize| u32::decode(&mut &bytes[at..at + 4]).unwrap();
        assert_eq!([number(0), number(4), number(24)], [1, 2, 1]);
        assert_eq!([number(28), number(32), number(68)], [6, 1, 4]);
        assert_eq!(&bytes[72..], b"why\0");
        assert_eq!(Explanation::decode(&mut &bytes[..]), Ok(explanation("why")));
    }

    #[test]
    fn another_version_is_refused() {
        let mut bytes = encoded(&explanation("why"));
        bytes[0] = 2;
        let error = Explanation::decode(&mut &bytes[..]).unwrap_err();
        assert_eq!(
            error,
            DecodeError::BadValue {
                field: "version of the explanation",
                value: 2
            }
        );
    }

    #[test]
    fn counts_and_lengths_have_limits() {
        let mut bytes = encoded(&explanation("why"));
        u32::MAX.encode(&mut &mut bytes[24..28]);
        Explanation::decode(&mut &bytes[..]).unwrap_err();
        2000u32.encode(&mut &mut bytes[24..28]);
        let short = Explanation::decode(&mut &bytes[..]).unwrap_err();
        assert!(matches!(short, DecodeError::TooShort { .. }), "{short:?}");

        let long = "ä".repeat(LONGEST_TEXT);
        let bytes = encoded(&explanation(&long));
        let cut = Explanation::decode(&mut &bytes[..]).unwrap();
        assert_eq!(cut.statements[0].text, "ä".repeat(LONGEST_TEXT / 2));
        let mut many = explanation("x");
        many.statements = vec![many.statements[0].clone(); MOST_STATEMENTS + 1];
        let bytes = encoded(&many);
        let fewer = Explanation::decode(&mut &bytes[..]).unwrap();
        assert_eq!(fewer.statements.len(), MOST_STATEMENTS);
    }
}
