//! What both tools are told, and what they read.

/// Invocations as in `INVOCATIONS`. `DIR` is a folder of the tool, `BASE` that of node 0, and `''`
/// an empty word.
pub(super) const STEPS: &str = "\
attach p.tdb persistent
attach r.tdb replicated
attach v.tdb
wipedb p.tdb
wipedb r.tdb
wipedb v.tdb
wipedb
wipedb nodb
wipedb p.tdb x
wipedb 0xzz
-n 1 wipedb p.tdb
pfetch p.tdb key
pstore p.tdb key value
pstore p.tdb key value
getdbseqnum p.tdb
pfetch p.tdb key
@1 pfetch p.tdb key
@2 pstore p.tdb 0x00ff 0x0122
@2 pstore p.tdb key other
pfetch p.tdb key
pstore p.tdb nul 0x610062
pfetch p.tdb nul
pstore p.tdb nothing ''
pstore p.tdb gone x
pdelete p.tdb gone
pdelete p.tdb gone
pdelete p.tdb never
pfetch p.tdb gone
pfetch p.tdb never
getdbseqnum p.tdb
cattdb p.tdb
@1 cattdb p.tdb
catdb p.tdb
pstore r.tdb key value
pfetch r.tdb key
getdbseqnum r.tdb
pfetch
pfetch p.tdb
pfetch p.tdb k x
pfetch nodb k
pfetch v.tdb k
pfetch p.tdb 0x1
-n 1 pfetch p.tdb key
-t 0 pfetch p.tdb key
pstore p.tdb k
pstore v.tdb 0x1 v
pstore p.tdb 0x123 v
pstore p.tdb k 0x0g
pdelete p.tdb
pdelete v.tdb k
pdelete p.tdb 0xzz
ptrans
ptrans nodb DIR/lines
ptrans v.tdb DIR/lines
ptrans p.tdb DIR/none
ptrans p.tdb a b
ptrans p.tdb
ptrans p.tdb /dev/null
ptrans p.tdb DIR/lines
getdbseqnum p.tdb
ptrans p.tdb DIR/lines
getdbseqnum p.tdb
cattdb p.tdb
@1 cattdb p.tdb
writekey v.tdb k1 v1
@1 writekey v.tdb k2 v2
backupdb
backupdb p.tdb
backupdb nodb DIR/x
backupdb p.tdb DIR/none/x
backupdb p.tdb DIR
backupdb p.tdb /dev/full
-n 1 backupdb p.tdb DIR/x
backupdb p.tdb DIR/p.bak
backupdb r.tdb DIR/r.bak
backupdb v.tdb DIR/v.bak
dumpdbbackup DIR/p.bak
dumpdbbackup DIR/v.bak
dumpdbbackup
dumpdbbackup a b
dumpdbbackup DIR/none
dumpdbbackup DIR
-n 1 dumpdbbackup DIR/p.bak
dumpdbbackup DIR/version
dumpdbbackup DIR/cut
pstore p.tdb later x
pdelete p.tdb key
restoredb
restoredb a b c
restoredb DIR/none
restoredb DIR
restoredb DIR/version
-n 1 restoredb DIR/p.bak
restoredb DIR/p.bak
cattdb p.tdb
@2 cattdb p.tdb
getdbseqnum p.tdb
restoredb DIR/p.bak new.tdb
getdbstatus new.tdb
@1 cattdb new.tdb
restoredb DIR/r.bak
@1 cattdb r.tdb
writekey v.tdb k1 other
restoredb DIR/v.bak
catdb v.tdb
wipedb v.tdb
catdb v.tdb
@1 catdb v.tdb
restoredb DIR/v.bak v.tdb
catdb v.tdb
@1 writekey v.tdb k1 again
readkey v.tdb k1
pstore p.tdb after restore
cattdb p.tdb
attach m.tdb persistent
wipedb m.tdb
ptrans m.tdb DIR/many
backupdb m.tdb DIR/m.bak
wipedb m.tdb
getdbseqnum m.tdb
restoredb DIR/m.bak
getdbseqnum m.tdb
@1 cattdb m.tdb
tfetch
tfetch DIR/t.tdb
tfetch DIR/none k
tfetch DIR/lines k
tfetch DIR/t.tdb none
tfetch DIR/t.tdb short
tfetch DIR/t.tdb 0x1
tfetch DIR/t.tdb 0x6b00
tstore DIR/none k v
tstore DIR/t.tdb k v
tfetch DIR/t.tdb k
tstore DIR/t.tdb k v2 5
tstore -- DIR/t.tdb k2 0x00ff 0x10 -1
tfetch DIR/t.tdb k2
tfetch DIR/t.tdb k2 DIR/record
tfetch DIR/t.tdb k2 DIR/none/record
tfetch DIR/t.tdb k2 /dev/full
-n 1 tfetch DIR/t.tdb k
tstore DIR/t.tdb k3 '' 7x 99999999999
tfetch DIR/t.tdb k3
tstore DIR/t.tdb k v x
tstore -- DIR/t.tdb k v -1
tstore DIR/t.tdb k v 99999999999999999999
tstore DIR/t.tdb 0x1 v x
tstore DIR/t.tdb k 0x1 x
tstore DIR/t.tdb k v 1 2 3
tstore DIR/t.tdb k
tfetch BASE/var/persistent/p.tdb.0 key
tfetch BASE/var/volatile/v.tdb.0 k1
";

/// What `ptrans` reads: good lines, bad ones, and an end without a newline.
pub(super) const LINES: &str = "\"k1\" \"v1\"\n\t\"k2\"   \"v2\" trailing\nbad line\n  bad\n\"k3\"\n\"\" \"x\"\n\
    \"k4\" \"\"\n\"0x6162\" \"0x00ff\"\n\"0x1\" \"v\"\n\"k\" \"0x00zz\"\n\"k5\" \"unterminated\n\
    \"k6\"x \"v\"\n\n\"k1\" \"v2\"\n\"k1\" \"v1\"\n\"k7\" \"last\"";

/// Invocations that come before a detach is allowed.
pub(super) const REFUSALS: &str = "\
detach
detach nodb
detach d.tdb
detach p.tdb
-n 1 detach d.tdb
";

/// Invocations while clients may not attach.
pub(super) const DETACHES: &str = "\
detach nodb
detach p.tdb
detach nodb d.tdb nodb
detach d.tdb
";
