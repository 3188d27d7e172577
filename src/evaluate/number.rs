//! Final numbers of worked answers (GSM8K, Cobbe et al. 2021, arXiv 2110.14168: the answer stands behind `####`).

/// The number behind the last `####`, if there is one.
pub fn marked(text: &str) -> Option<f64> {
    let (_, rest) = text.rsplit_once("####")?;
    numbers(rest).first().copied()
}

/// The number behind the last `####`, or else the last number of the text.
pub fn last(text: &str) -> Option<f64> {
    marked(text).or_else(|| numbers(text).last().copied())
}

/// All numbers: digits with thousands' commas and a decimal point, with a minus sign that follows no letter or digit.
fn numbers(text: &str) -> Vec<f64> {
    let chars: Vec<char> = text.chars().collect();
    let (mut found, mut i) = (Vec::new(), 0);
    while i < chars.len() {
        if !chars[i].is_ascii_digit() {
            i += 1;
            continue;
        }
        let start = i;
        let mut digits = String::new();
        let digit_at = |k: usize| chars.get(k).is_some_and(char::is_ascii_digit);
        while i < chars.len() {
            match chars[i] {
                c if c.is_ascii_digit() => digits.push(c),
                '.' if digit_at(i + 1) && !digits.contains('.') => digits.push('.'),
                ',' if digit_at(i + 1) && digit_at(i + 2) && digit_at(i + 3) && !digit_at(i + 4) => {}
                _ => break,
            }
            i += 1;
        }
        // "-$5" and "-5" are below zero, the 5 of "10-5" is not.
        let sign = chars[..start].iter().rposition(|&c| c != '$').filter(|&k| chars[k] == '-');
        let negative = sign.is_some_and(|k| k == 0 || !chars[k - 1].is_alphanumeric());
        if let Ok(value) = digits.parse::<f64>() {
            found.push(if negative { -value } else { value });
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_marked_number_wins_over_the_last() {
        assert_eq!(last("She makes 9 * 2 = $<<9*2=18>>18 every day.\n#### 18"), Some(18.0));
        assert_eq!(last("#### 1,234.50 dollars, not 7"), Some(1234.5));
        assert_eq!((marked("so 18."), last("so 16 - 3 - 4 = 9, times 2 is $18.")), (None, Some(18.0)));
        assert_eq!(last("It costs -$5"), Some(-5.0));
        assert_eq!(last("that is 10-5"), Some(5.0));
        assert_eq!(last("1, 2,3 and 2,000,000"), Some(2e6));
        assert_eq!((last("none"), last("#### none of 3 4")), (None, Some(3.0)));
        assert_eq!(last("####"), None);
    }
}
