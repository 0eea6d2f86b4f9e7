//! Tunables: 62 numbers that steer a running daemon, and the files that set them at its start
//! (`config.md` 2.3 and 2.4).

use std::time::Duration;

use crate::ini::{LineKind, lines};
use crate::number::c_number;
use crate::{Diagnostic, LogLevel};

macro_rules! tunables {
    ($($name:ident $index:literal $default:literal $age:ident;)*) => {
        /// A tunable under its CTDB name. The number is its position in the wire structure.
        #[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
        pub enum Tunable {
            $($name = $index,)*
        }

        impl Tunable {
            /// All tunables, obsolete ones too, in the order in which they are listed.
            pub const ALL: [Self; Tunables::COUNT] = [$(Self::$name,)*];

            /// The name in files, controls and on the command line.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$name => stringify!($name),)* }
            }

            /// The value in force when nothing sets it.
            pub const fn default_value(self) -> u32 {
                match self { $(Self::$name => $default,)* }
            }

            /// Whether it is only kept so that old settings are not errors.
            pub const fn is_obsolete(self) -> bool {
                match self { $(Self::$name => is_obsolete!($age),)* }
            }
        }
    };
}

macro_rules! is_obsolete {
    (current) => {
        false
    };
    (obsolete) => {
        true
    };
}

tunables! {
    MaxRedirectCount 0 3 obsolete;
    SeqnumInterval 1 1000 current;
    ControlTimeout 2 60 current;
    TraverseTimeout 3 20 current;
    KeepaliveInterval 4 5 current;
    KeepaliveLimit 5 5 current;
    RecoverTimeout 6 30 current;
    RecoverInterval 7 1 current;
    ElectionTimeout 8 3 current;
    TakeoverTimeout 9 9 current;
    MonitorInterval 10 15 current;
    TickleUpdateInterval 11 20 current;
    EventScriptTimeout 12 30 current;
    MonitorTimeoutCount 13 20 current;
    EventScriptUnhealthyOnTimeout 14 0 obsolete;
    RecoveryGracePeriod 15 120 current;
    RecoveryBanPeriod 16 300 current;
    DatabaseHashSize 17 100_001 current;
    DatabaseMaxDead 18 5 current;
    RerecoveryTimeout 19 10 current;
    EnableBans 20 1 current;
    DeterministicIPs 21 0 obsolete;
    LCP2PublicIPs 41 1 obsolete;
    ReclockPingPeriod 22 60 obsolete;
    NoIPFailback 23 0 current;
    DisableIPFailover 24 0 obsolete;
    VerboseMemoryNames 25 0 current;
    RecdPingTimeout 26 60 current;
    RecdFailCount 27 10 current;
    LogLatencyMs 28 0 current;
    RecLockLatencyMs 29 1000 current;
    RecoveryDropAllIPs 30 120 current;
    VerifyRecoveryLock 31 1 obsolete;
    VacuumInterval 32 10 current;
    VacuumMaxRunTime 33 120 current;
    RepackLimit 34 10_000 current;
    VacuumLimit 35 5000 obsolete;
    VacuumFastPathCount 40 60 current;
    MaxQueueDropMsg 36 1_000_000 current;
    AllowUnhealthyDBRead 37 0 current;
    StatHistoryInterval 38 1 current;
    DeferredAttachTO 39 120 current;
    AllowClientDBAttach 42 1 current;
    RecoverPDBBySeqNum 43 1 obsolete;
    DeferredRebalanceOnNodeAdd 44 300 obsolete;
    FetchCollapse 45 1 current;
    HopcountMakeSticky 46 50 current;
    StickyDuration 47 600 current;
    StickyPindown 48 200 current;
    NoIPTakeover 49 0 current;
    DBRecordCountWarn 50 100_000 current;
    DBRecordSizeWarn 51 10_000_000 current;
    DBSizeWarn 52 100_000_000 current;
    PullDBPreallocation 53 10_485_760 current;
    NoIPHostOnAllDisabled 54 1 obsolete;
    Samba3AvoidDeadlocks 55 0 obsolete;
    TDBMutexEnabled 56 1 obsolete;
    LockProcessesPerDB 57 200 current;
    RecBufferSizeLimit 58 1_000_000 current;
    QueueBufferSize 59 1024 current;
    IPAllocAlgorithm 60 2 current;
    AllowMixedVersions 61 0 current;
}

impl Tunable {
    /// The tunable with this name, in any case, obsolete ones too.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|tunable| tunable.name().eq_ignore_ascii_case(name))
    }

    /// The tunables that `LIST_TUNABLES` names, in its order.
    pub fn current() -> impl Iterator<Item = Self> {
        Self::ALL
            .into_iter()
            .filter(|tunable| !tunable.is_obsolete())
    }

    /// Position in the wire structure.
    pub const fn index(self) -> usize {
        self as usize
    }
}

/// The values of all tunables.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Tunables([u32; Tunables::COUNT]);

impl Default for Tunables {
    fn default() -> Self {
        let mut values = [0; Self::COUNT];
        for tunable in Tunable::ALL {
            values[tunable.index()] = tunable.default_value();
        }
        Self(values)
    }
}

impl Tunables {
    /// Number of values, obsolete ones included, on the wire and here.
    pub const COUNT: usize = 62;

    /// The values in wire order.
    pub const fn from_values(values: [u32; Self::COUNT]) -> Self {
        Self(values)
    }

    /// The values in wire order.
    pub const fn values(&self) -> &[u32; Self::COUNT] {
        &self.0
    }

    /// The value as it is.
    pub const fn get(&self, tunable: Tunable) -> u32 {
        self.0[tunable.index()]
    }

    /// Sets a value. There is no range check, as in the original.
    pub const fn set(&mut self, tunable: Tunable, value: u32) {
        self.0[tunable.index()] = value;
    }

    /// A tunable that is a switch.
    pub const fn is_on(&self, tunable: Tunable) -> bool {
        self.get(tunable) != 0
    }

    /// A tunable whose unit is the second.
    pub const fn seconds(&self, tunable: Tunable) -> Duration {
        Duration::from_secs(self.get(tunable) as u64)
    }

    /// A tunable whose unit is the millisecond.
    pub const fn milliseconds(&self, tunable: Tunable) -> Duration {
        Duration::from_millis(self.get(tunable) as u64)
    }

    /// Applies a tunables file on top of the values held. `file` is the name that messages begin
    /// with. Every correct line is applied, whatever the others say; a daemon starts all the same.
    pub fn apply_file(&mut self, file: &str, text: &str) -> Vec<Diagnostic> {
        let mut remarks = Vec::new();
        for line in lines(text) {
            if let Err((level, problem)) = self.apply_line(line.kind) {
                let text = format!("{file}: {problem}");
                remarks.push(Diagnostic {
                    line: line.number,
                    level,
                    text,
                });
            }
        }
        remarks
    }

    /// Applies one line, or says what is wrong with it and how bad that is.
    fn apply_line(&mut self, line: LineKind) -> Result<(), (LogLevel, String)> {
        let error = |text: String| Err((LogLevel::ERROR, text));
        let (name, value) = match line {
            LineKind::Section(name) => {
                // The blank at the end belongs to the text of the original.
                return error(format!(
                    "Invalid line for section [{name}] - tunables sections not supported "
                ));
            }
            LineKind::SyntaxError(_) => return error("Syntax error".to_owned()),
            LineKind::Bare(text) => (text, String::new()),
            LineKind::Assignment { name, value } => (name, value),
        };
        if value.is_empty() {
            return error(format!("Invalid tunables line containing \"{name}\""));
        }
        let number = c_number(&value);
        if !number.has_digits || number.negative || !number.rest.is_empty() {
            return error(format!("Invalid value \"{value}\" for tunable \"{name}\""));
        }
        let Some(tunable) = Tunable::from_name(&name) else {
            return error(format!("Unknown tunable \"{name}\""));
        };
        let magnitude = number.magnitude.unwrap_or(u64::MAX);
        self.set(tunable, low_32_bits(magnitude));
        if tunable.is_obsolete() {
            return error(format!("Obsolete tunable \"{name}\""));
        }
        if magnitude > u64::from(u32::MAX) {
            let kept = self.get(tunable);
            return Err((
                LogLevel::WARNING,
                format!("Value \"{value}\" of \"{name}\" is cut to {kept}"),
            ));
        }
        Ok(())
    }
}

/// What the original keeps of a larger number, without a word.
fn low_32_bits(number: u64) -> u32 {
    u32::try_from(number & u64::from(u32::MAX)).expect("the upper half was masked out")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_position_is_taken_once() {
        let mut positions: Vec<_> = Tunable::ALL.iter().map(|t| t.index()).collect();
        positions.sort_unstable();
        assert_eq!(positions, (0..Tunables::COUNT).collect::<Vec<_>>());
        assert_eq!(Tunable::current().count(), 49);
    }

    #[test]
    fn defaults_are_those_of_the_table() {
        let tunables = Tunables::default();
        assert_eq!(
            tunables.seconds(Tunable::KeepaliveInterval),
            Duration::from_secs(5)
        );
        assert_eq!(
            tunables.milliseconds(Tunable::SeqnumInterval),
            Duration::from_secs(1)
        );
        assert_eq!(tunables.get(Tunable::DatabaseHashSize), 100_001);
        assert_eq!(tunables.values()[41], 1);
        assert!(tunables.is_on(Tunable::EnableBans));
    }

    #[test]
    fn lines_set_values_by_name_in_any_case_and_base() {
        let mut tunables = Tunables::default();
        let text = "# c\nmonitorinterval = 0x10\nRecoverTimeout=010\nControlTimeout=7";
        assert_eq!(tunables.apply_file("f", text), []);
        assert_eq!(tunables.get(Tunable::MonitorInterval), 16);
        assert_eq!(tunables.get(Tunable::RecoverTimeout), 8);
        assert_eq!(tunables.get(Tunable::ControlTimeout), 7);
    }

    #[test]
    fn wrong_lines_are_reported_and_the_others_applied() {
        let mut tunables = Tunables::default();
        let text = "[x]\nEmpty =\nno  equals\nControlTimeout = 7x\nControlTimeout = -1\n\
                    NoSuch = 1\nLCP2PublicIPs = 0\n= 3\nControlTimeout = 8\n";
        let remarks = tunables.apply_file("F", text);
        let texts: Vec<_> = remarks.iter().map(|r| (r.line, r.text.as_str())).collect();
        assert_eq!(
            texts,
            [
                (
                    1,
                    "F: Invalid line for section [x] - tunables sections not supported "
                ),
                (2, "F: Invalid tunables line containing \"Empty\""),
                (3, "F: Invalid tunables line containing \"no equals\""),
                (4, "F: Invalid value \"7x\" for tunable \"ControlTimeout\""),
                (5, "F: Invalid value \"-1\" for tunable \"ControlTimeout\""),
                (6, "F: Unknown tunable \"NoSuch\""),
                (7, "F: Obsolete tunable \"LCP2PublicIPs\""),
                (8, "F: Syntax error"),
            ]
        );
        assert_eq!(tunables.get(Tunable::LCP2PublicIPs), 0);
        assert_eq!(tunables.get(Tunable::ControlTimeout), 8);
    }

    #[test]
    fn numbers_beyond_32_bits_are_cut_with_a_warning() {
        let mut tunables = Tunables::default();
        let remarks = tunables.apply_file("F", "ControlTimeout = 99999999999");
        assert_eq!(tunables.get(Tunable::ControlTimeout), 1_215_752_191);
        assert_eq!(remarks[0].level, LogLevel::WARNING);
    }
}
