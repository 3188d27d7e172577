//! Files that hold one JSON array of rows.

use serde_json::value::RawValue;

/// The elements of an array, each with the line it begins in, counted from 1.
///
/// # Errors
/// The line of the fault and the reason.
pub(super) fn elements<'t>(text: &'t str) -> Result<Vec<(usize, &'t str)>, (usize, String)> {
    let list: Vec<&'t RawValue> = serde_json::from_str(text).map_err(|e| {
        let reason = e.to_string();
        let reason = reason.split(" at line ").next().unwrap_or_default();
        (e.line(), format!("not a valid JSON array: {reason} (column {})", e.column()))
    })?;
    let (mut line, mut seen) = (1, 0);
    let place = |raw: &'t RawValue| {
        let element = raw.get();
        // An element is a slice of the text: the distance of the two is its offset.
        let offset = (element.as_ptr() as usize).wrapping_sub(text.as_ptr() as usize);
        line += text.get(seen..offset).map_or(0, |passed| passed.bytes().filter(|b| *b == b'\n').count());
        seen = offset;
        (line, element)
    };
    Ok(list.into_iter().map(place).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elements_know_their_line() {
        let text = "\n[{\"a\":\n1}, {\"b\":2},\n\n 3]\n";
        assert_eq!(elements(text).unwrap(), [(2, "{\"a\":\n1}"), (3, "{\"b\":2}"), (5, "3")]);
        let (line, reason) = elements("[1,\n2,\n x]").unwrap_err();
        assert!(line == 3 && reason.contains("expected value"), "{line} {reason}");
        assert!(elements("[1] 2").is_err());
    }
}
