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

/// What the processor calls itself; the architecture where it cannot be told.
pub fn cpu_name() -> String {
    let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let name = text.lines().find_map(|line| line.strip_prefix("model name")?.split_once(':')).map(|(_, name)| name);
    name.map_or(std::env::consts::ARCH, str::trim).to_owned()
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
