//! Text that goes into a page.

/// A text as HTML shows it: markup characters become entities; control characters, which HTML forbids or which reorder what
/// stands around them, become their pictures or code points.
pub(super) fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            '\n' | '\t' => out.push(c),
            '\u{0}'..='\u{1f}' => out.push(char::from_u32(0x2400 + c as u32).unwrap_or('\u{fffd}')),
            '\u{7f}'..='\u{9f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{fffe}' | '\u{ffff}' => {
                out.push_str(&format!("[U+{:04X}]", c as u32));
            }
            c => out.push(c),
        }
    }
    out
}

/// A text of foreign origin in its own direction, apart from what stands around it.
pub(super) fn foreign(text: &str) -> String {
    format!("<bdi dir=\"auto\">{}</bdi>", escape(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_of_a_text_is_markup() {
        let hostile = "</script><script>alert('x')</script>\" onload=\"y\" &amp; \u{202e}drow\0\u{7f}\u{5d0}\r\n";
        let escaped = escape(hostile);
        assert!(!escaped.contains(['<', '>', '"', '\'', '\0', '\u{202e}', '\r']), "{escaped}");
        assert!(escaped.contains("&amp;amp;") && escaped.contains("[U+202E]drow\u{2400}[U+007F]\u{5d0}\u{240d}\n"));
        assert!(foreign("\u{5d0}").starts_with("<bdi dir=\"auto\">\u{5d0}"));
    }
}
