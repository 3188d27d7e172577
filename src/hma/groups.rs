//! Which blocks share a ratio.

use crate::error::{Error, Kind, Result};

/// How a number of groups becomes cuts; paper and code differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GroupRule {
    /// Equal sizes, the last groups one larger where it does not divide: 8, 9 and 9 of 26 (section 5).
    Paper,
    /// The authors' code: three groups are cut at 8 and 16, or above 30 blocks at 11 and 21; other numbers have equal sizes and
    /// the last one takes the remainder.
    Released,
}

impl GroupRule {
    /// Reads its name.
    pub fn from_name(name: &str) -> Result<Self> {
        match name {
            "paper" => Ok(Self::Paper),
            "released" => Ok(Self::Released),
            _ => Err(Error::new(Kind::Argument, format!("--group-rule {name}: neither paper nor released"))),
        }
    }
}

/// Groups of neighbouring blocks, from the input on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Groups {
    of_layer: Vec<usize>,
    n_groups: usize,
}

impl Groups {
    /// Reads `3`, `layers`, or the last block of every group but the last one: `10,20` (the authors' script writes `10#20`), and
    /// `10,` for a single cut.
    ///
    /// # Errors
    /// [`Kind::Argument`] where a group would be empty or a cut is none.
    pub fn parse(text: &str, rule: GroupRule, n_layers: usize) -> Result<Self> {
        let bad = |what: &str| Error::new(Kind::Argument, format!("--groups {text}: {what}"));
        if n_layers == 0 {
            return Err(bad("the model has no blocks"));
        }
        if text == "layers" {
            return Ok(Self { of_layer: (0..n_layers).collect(), n_groups: n_layers });
        }
        let sizes = if text.contains([',', '#']) {
            let cuts = text.split([',', '#']).filter(|cut| !cut.is_empty());
            let cuts = cuts.map(|cut| cut.trim().parse::<usize>().ok().map(|c| c + 1)).collect::<Option<Vec<_>>>();
            let cuts =
                cuts.ok_or_else(|| bad("expected a number, layers, or numbers of blocks with commas between"))?;
            let mut edges = vec![0];
            edges.extend(cuts);
            edges.push(n_layers);
            if edges.windows(2).any(|pair| pair[0] >= pair[1]) {
                return Err(bad(&format!("cuts have to rise and stay below the last of {n_layers} blocks")));
            }
            edges.windows(2).map(|pair| pair[1] - pair[0]).collect()
        } else {
            let n: usize = text.parse().map_err(|_| bad("expected a number, layers, or cuts such as 10,20"))?;
            if n == 0 || n > n_layers {
                return Err(bad(&format!("the model has {n_layers} blocks")));
            }
            rule.sizes(n, n_layers).ok_or_else(|| {
                bad(&format!(
                    "the released rule leaves a group of {n_layers} blocks empty; --group-rule paper does not"
                ))
            })?
        };
        let of_layer = sizes.iter().enumerate().flat_map(|(g, &size)| std::iter::repeat_n(g, size)).collect();
        Ok(Self { of_layer, n_groups: sizes.len() })
    }

    /// How many groups there are.
    pub fn n_groups(&self) -> usize {
        self.n_groups
    }

    /// How many blocks there are.
    pub fn n_layers(&self) -> usize {
        self.of_layer.len()
    }

    /// The group of a block.
    pub fn of(&self, layer: usize) -> usize {
        self.of_layer[layer]
    }

    /// First and last block of every group.
    pub fn spans(&self) -> Vec<(usize, usize)> {
        let span = |g: usize| {
            let of = |layer: &usize| self.of_layer[*layer] == g;
            let layers = 0..self.of_layer.len();
            (layers.clone().find(of).unwrap_or(0), layers.rev().find(of).unwrap_or(0))
        };
        (0..self.n_groups).map(span).collect()
    }

    /// One number per group as one per block.
    pub fn spread(&self, by_group: &[f64]) -> Vec<f64> {
        self.of_layer.iter().map(|&g| by_group[g]).collect()
    }

    /// Numbers of blocks added up by group: a gradient by the groups' ratios.
    pub fn gather(&self, by_layer: &[f64]) -> Vec<f64> {
        let mut sums = vec![0.0; self.n_groups];
        self.of_layer.iter().zip(by_layer).for_each(|(&g, x)| sums[g] += x);
        sums
    }
}

impl GroupRule {
    fn sizes(self, n: usize, n_layers: usize) -> Option<Vec<usize>> {
        let size = n_layers / n;
        let sizes: Vec<usize> = match self {
            Self::Paper => (0..n).map(|g| size + usize::from(g >= n - n_layers % n)).collect(),
            Self::Released if n == 3 => {
                let [first, second] = if n_layers > 30 { [11, 21] } else { [8, 16] };
                vec![first, second - first, n_layers.checked_sub(second)?]
            }
            Self::Released => (0..n).map(|g| if g + 1 < n { size } else { n_layers - size * (n - 1) }).collect(),
        };
        sizes.iter().all(|&size| size > 0).then_some(sizes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sizes(text: &str, rule: GroupRule, n_layers: usize) -> Vec<usize> {
        let groups = Groups::parse(text, rule, n_layers).unwrap();
        groups.spans().iter().map(|(first, last)| last - first + 1).collect()
    }

    #[test]
    fn sizes_are_the_papers_and_the_releases() {
        assert_eq!(sizes("3", GroupRule::Paper, 26), [8, 9, 9]);
        assert_eq!(sizes("3", GroupRule::Released, 26), [8, 8, 10]);
        assert_eq!(sizes("3", GroupRule::Released, 32), [11, 10, 11]);
        assert_eq!(sizes("6", GroupRule::Released, 26), [4, 4, 4, 4, 4, 6]);
        assert_eq!(sizes("6", GroupRule::Released, 32), [5, 5, 5, 5, 5, 7]);
        assert_eq!(sizes("layers", GroupRule::Paper, 26), [1; 26]);
        assert_eq!(sizes("10#20", GroupRule::Paper, 32), sizes("10,20", GroupRule::Paper, 32));
    }

    #[test]
    fn a_cut_is_the_last_block_of_its_group() {
        let groups = Groups::parse("10#20", GroupRule::Released, 26).unwrap();
        assert_eq!((groups.of(10), groups.of(11), groups.of(20), groups.of(21), groups.n_groups()), (0, 1, 1, 2, 3));
        assert_eq!(Groups::parse("10,", GroupRule::Paper, 26).unwrap().spans(), [(0, 10), (11, 25)]);
        assert_eq!(groups.gather(&groups.spread(&[1.0, 2.0, 3.0])), [11.0, 20.0, 15.0]);
    }

    #[test]
    fn groups_without_a_block_are_refused() {
        for (text, n_layers) in
            [("0", 26), ("27", 26), ("20,10", 26), ("25,", 26), ("x", 26), ("1,y", 26), ("3", 0), ("", 4)]
        {
            let message = Groups::parse(text, GroupRule::Paper, n_layers).unwrap_err().to_string();
            assert!(message.contains(&format!("--groups {text}")), "{message}");
        }
        let message = Groups::parse("3", GroupRule::Released, 12).unwrap_err().to_string();
        assert!(message.contains("--group-rule paper"), "{message}");
        assert!(GroupRule::from_name("code").is_err());
    }
}
