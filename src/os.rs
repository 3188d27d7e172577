//! What the operating system is asked for: the one place outside `runtime` that calls into libc.

/// The most memory that the process has had resident so far, in bytes, mapped files included; 0 where it cannot be told.
pub fn peak_rss_bytes() -> u64 {
    #[cfg(unix)]
    {
        // SAFETY: all-zero bytes are a valid `rusage`; the call only writes to it.
        let (usage, status) = unsafe {
            let mut usage: libc::rusage = std::mem::zeroed();
            let status = libc::getrusage(libc::RUSAGE_SELF, &raw mut usage);
            (usage, status)
        };
        let max = u64::try_from(usage.ru_maxrss).unwrap_or(0);
        // Kilobytes everywhere but on Apple's systems.
        let unit = if cfg!(target_vendor = "apple") { 1 } else { 1024 };
        if status == 0 {
            return max * unit;
        }
    }
    0
}

/// Memory that could be had without swapping, in bytes; 0 where it cannot be told.
pub fn available_bytes() -> u64 {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let kilobytes =
        text.lines().find_map(|line| line.strip_prefix("MemAvailable:")?.split_whitespace().next()?.parse().ok());
    kilobytes.map_or(0, |k: u64| k * 1024)
}

/// Memory of the process' own that is resident, in bytes: without mapped files, whose pages the system may drop; 0 where it
/// cannot be told.
pub fn anonymous_bytes() -> u64 {
    let text = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let kilobytes =
        text.lines().find_map(|line| line.strip_prefix("RssAnon:")?.split_whitespace().next()?.parse().ok());
    kilobytes.map_or(0, |k: u64| k * 1024)
}

/// What the processor calls itself; the architecture where it cannot be told.
pub fn cpu_name() -> String {
    let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let name = text.lines().find_map(|line| line.strip_prefix("model name")?.split_once(':')).map(|(_, name)| name);
    name.map_or(std::env::consts::ARCH, str::trim).to_owned()
}

/// Writes all bytes at a place of a file, whatever its cursor says.
pub(crate) fn write_all_at(file: &std::fs::File, bytes: &[u8], at: u64) -> std::io::Result<()> {
    #[cfg(unix)]
    return std::os::unix::fs::FileExt::write_all_at(file, bytes, at);
    #[cfg(windows)]
    {
        let mut done = 0;
        while done < bytes.len() {
            done += std::os::windows::fs::FileExt::seek_write(file, &bytes[done..], at + done as u64)?;
        }
        return Ok(());
    }
    #[cfg(not(any(unix, windows)))]
    {
        use std::io::{Seek, SeekFrom, Write};
        let mut file = file;
        file.seek(SeekFrom::Start(at))?;
        file.write_all(bytes)
    }
}

/// Writes pieces that follow each other at a place of a file; moves its cursor.
pub(crate) fn write_run_at(mut file: &std::fs::File, pieces: &[Vec<u8>], at: u64) -> std::io::Result<()> {
    use std::io::{ErrorKind, IoSlice, Seek, SeekFrom, Write};
    file.seek(SeekFrom::Start(at))?;
    let mut slices: Vec<IoSlice> = pieces.iter().map(|bytes| IoSlice::new(bytes)).collect();
    let mut left = &mut slices[..];
    // Empty pieces are none.
    IoSlice::advance_slices(&mut left, 0);
    while !left.is_empty() {
        match file.write_vectored(left) {
            Ok(0) => return Err(ErrorKind::WriteZero.into()),
            Ok(n) => IoSlice::advance_slices(&mut left, n),
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

/// Asks the system to begin writing a part of a file to its disk, and does not wait for it. Advice, which may be ignored.
pub(crate) fn begin_writeback(file: &std::fs::File, from: u64, bytes: u64) {
    #[cfg(target_os = "linux")]
    if let (Ok(from), Ok(bytes)) = (i64::try_from(from), i64::try_from(bytes)) {
        use std::os::fd::AsRawFd;
        // SAFETY: the descriptor is open as long as the file; the call reads no memory.
        unsafe { libc::sync_file_range(file.as_raw_fd(), from, bytes, libc::SYNC_FILE_RANGE_WRITE) };
    }
    #[cfg(not(target_os = "linux"))]
    let _ = (file, from, bytes);
}

#[cfg(all(test, unix))]
mod tests {
    #[test]
    fn the_peak_grows_with_what_is_touched() {
        let before = super::peak_rss_bytes();
        let touched = std::hint::black_box(vec![1u8; 64 << 20]);
        assert!(before > 0 && super::peak_rss_bytes() >= before.max(touched.len() as u64));
    }
}
