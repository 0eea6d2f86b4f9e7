//! The few regular expressions of the recording, without a crate for them.

/// Whether the whole text fits. Knows literals, `\d`, `\n`, `\x` for any other `x`, `[a-z0 ]`, and the
/// counts `{n}`, `+` and `?`; each takes as much as it can and never gives back.
pub(crate) fn matches_pattern(pattern: &str, text: &str) -> bool {
    let mut pattern = pattern.chars().peekable();
    let mut text = text.chars().peekable();
    while let Some(first) = pattern.next() {
        let atom = match first {
            '\\' => match pattern.next() {
                Some('d') => Atom::Class(vec![('0', '9')]),
                Some('n') => Atom::Literal('\n'),
                other => Atom::Literal(other.unwrap()),
            },
            '[' => Atom::Class(read_class(&mut pattern)),
            other => Atom::Literal(other),
        };
        let (least, most) = read_count(&mut pattern);
        let mut found = 0;
        while found < most && text.next_if(|c| atom.fits(*c)).is_some() {
            found += 1;
        }
        if found < least {
            return false;
        }
    }
    text.next().is_none()
}

enum Atom {
    Literal(char),
    Class(Vec<(char, char)>),
}

impl Atom {
    fn fits(&self, c: char) -> bool {
        match self {
            Self::Literal(literal) => c == *literal,
            Self::Class(ranges) => ranges.iter().any(|(from, to)| (*from..=*to).contains(&c)),
        }
    }
}

type Chars<'a> = std::iter::Peekable<std::str::Chars<'a>>;

fn read_class(pattern: &mut Chars<'_>) -> Vec<(char, char)> {
    let mut ranges = Vec::new();
    while let Some(mut from) = pattern.next().filter(|c| *c != ']') {
        if from == '\\' {
            from = pattern.next().unwrap();
        }
        let to = if pattern.next_if_eq(&'-').is_some() {
            pattern.next().unwrap()
        } else {
            from
        };
        ranges.push(if from == 'd' && to == 'd' {
            ('0', '9')
        } else {
            (from, to)
        });
    }
    ranges
}

fn read_count(pattern: &mut Chars<'_>) -> (usize, usize) {
    if pattern.next_if_eq(&'+').is_some() {
        return (1, usize::MAX);
    }
    if pattern.next_if_eq(&'?').is_some() {
        return (0, 1);
    }
    if pattern.next_if_eq(&'{').is_none() {
        return (1, 1);
    }
    let digits: String = pattern.take_while(|c| *c != '}').collect();
    let count = digits.parse().unwrap();
    (count, count)
}

#[test]
fn patterns_of_the_recording_are_understood() {
    let pattern = r"a [A-Z][a-z]{2} [ 0-9]\d \(\d+\.\d{2}\)-?x";
    assert!(matches_pattern(pattern, "a Nov  5 (12.50)x"));
    assert!(matches_pattern(pattern, "a Nov 15 (1.50)-x"));
    assert!(!matches_pattern(pattern, "a nov 15 (1.50)x"));
    assert!(!matches_pattern(pattern, "a Nov 15 (1.5)x"));
    assert!(!matches_pattern(pattern, "a Nov 15 (1.50)x\n"));
}
