//! Backups as files, with the complaints of the commands that read them (`cli.md` 2.7).

use std::fs::File;
use std::io::{self, Read, Seek};
use std::path::{Path, PathBuf};

use ctdb_proto::{BackupError, BackupHeader, BackupPart, BackupReader, RecBuffer};
use ctdb_sys::LocalTime;

use crate::exit::{EINVAL, EIO, EMSGSIZE, ENOENT, Failure};

/// Bytes that are read at once.
const PIECE: usize = 64 * 1024;

/// A backup that is read from a file, one buffer at a time.
pub(crate) struct BackupFile {
    path: PathBuf,
    file: File,
    reader: BackupReader,
    header: BackupHeader,
}

impl BackupFile {
    /// Opens a backup and reads its header.
    pub(crate) fn open(path: &Path) -> Result<Self, Failure> {
        let file = File::open(path).map_err(|error| {
            let line = format!("Failed to open file {} for reading", path.display());
            Failure::with_code(errno(&error), line)
        })?;
        let mut reader = BackupReader::new();
        let header = read_header(&file, &mut reader, path)?;
        Ok(Self {
            path: path.to_owned(),
            file,
            reader,
            header,
        })
    }

    pub(crate) fn header(&self) -> &BackupHeader {
        &self.header
    }

    /// When the backup was made, in local time.
    pub(crate) fn time(&self) -> String {
        let Some(time) = LocalTime::from_unix(self.header.timestamp) else {
            return "(time out of range)".to_owned();
        };
        let LocalTime {
            year,
            month,
            day,
            hour,
            minute,
            second,
            ..
        } = time;
        format!("{year:04}/{month:02}/{day:02} {hour:02}:{minute:02}:{second:02}")
    }

    /// The next buffer, or `None` behind the last one.
    pub(crate) fn next_buffer(&mut self) -> Result<Option<RecBuffer>, ReadError> {
        loop {
            match self.reader.next_part().map_err(ReadError::Damaged)? {
                Some(BackupPart::Buffer(buffer)) => return Ok(Some(buffer)),
                // It comes once, before this is called.
                Some(BackupPart::Header(_)) => {}
                None if is_complete(&self.reader) => return Ok(None),
                None => self.read_on()?,
            }
        }
    }

    /// Reads the whole backup to see whether it can be restored, and goes back to its start.
    pub(crate) fn check(mut self) -> Result<Self, Failure> {
        while let Some(buffer) = self.next_buffer()? {
            let checked = buffer.check_headers().map_err(BackupError::from);
            checked.map_err(ReadError::Damaged)?;
        }
        self.reader.finish().map_err(ReadError::Damaged)?;
        self.file.rewind().map_err(ReadError::File)?;
        self.reader = BackupReader::new();
        self.header = read_header(&self.file, &mut self.reader, &self.path)?;
        Ok(self)
    }

    fn read_on(&mut self) -> Result<(), ReadError> {
        match read_piece(&self.file, &mut self.reader) {
            Ok(0) => Err(ReadError::EndsEarly),
            result => result.map(drop).map_err(ReadError::File),
        }
    }
}

/// Why the records of a backup cannot be had.
#[derive(Debug)]
pub(crate) enum ReadError {
    File(io::Error),
    /// The file has been cut off.
    EndsEarly,
    Damaged(BackupError),
}

impl From<ReadError> for Failure {
    fn from(error: ReadError) -> Self {
        const LINE: &str = "Failed to read records";
        match error {
            ReadError::File(error) => Self::with_code(errno(&error), LINE),
            // The original exits with what an earlier call left in `errno`.
            ReadError::EndsEarly => Self::with_code(ENOENT, LINE),
            ReadError::Damaged(error) => Self::with_code(EMSGSIZE, format!("{LINE}: {error}")),
        }
    }
}

/// Whether all buffers have been read. How many records there are in them is another question,
/// which the original does not ask when it shows a backup.
fn is_complete(reader: &BackupReader) -> bool {
    matches!(
        reader.finish(),
        Ok(()) | Err(BackupError::RecordCount { .. })
    )
}

fn read_header(
    file: &File,
    reader: &mut BackupReader,
    path: &Path,
) -> Result<BackupHeader, Failure> {
    let failed = |code| {
        let line = format!("Failed to read db header from file {}", path.display());
        Failure::with_code(code, line)
    };
    loop {
        match reader.next_part() {
            Ok(Some(BackupPart::Header(header))) => return Ok(header),
            Err(error @ BackupError::Version { .. }) => return Err(version_failure(&error)),
            Ok(Some(BackupPart::Buffer(_))) | Err(_) => return Err(failed(EINVAL)),
            Ok(None) => {}
        }
        let count = read_piece(file, reader).map_err(|error| failed(errno(&error)))?;
        if count == 0 {
            return Err(failed(EINVAL));
        }
    }
}

/// Hands the next bytes of a file to the reader; says how many, 0 at the end of the file.
fn read_piece(mut file: &File, reader: &mut BackupReader) -> io::Result<usize> {
    let mut piece = vec![0; PIECE];
    loop {
        match file.read(&mut piece) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => {
                let count = result?;
                reader.push(piece.get(..count).unwrap_or_default());
                return Ok(count);
            }
        }
    }
}

fn version_failure(error: &BackupError) -> Failure {
    let BackupError::Version { found } = error else {
        return Failure::silent(EINVAL);
    };
    let line = format!("Wrong version of backup file, expected 3, got {found}");
    Failure::with_code(EINVAL, line)
}

/// The number behind an error of a file.
pub(crate) fn errno(error: &io::Error) -> i32 {
    error.raw_os_error().unwrap_or(EIO)
}
