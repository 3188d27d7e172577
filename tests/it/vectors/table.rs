//! Reads the golden vectors of specs `vjp`, section 14: lines `name [ne0,ne1,..] values` below a heading.

/// One line.
#[derive(Clone, Debug)]
pub(crate) struct Vector {
    pub(crate) ne: [usize; 4],
    pub(crate) values: Vec<f64>,
}

/// The lines of one heading by name; a name may come again.
pub(crate) struct Vectors(Vec<(String, Vector)>);

impl Vectors {
    /// The lines under `heading`, such as `V3`.
    pub(crate) fn of(heading: &str) -> Self {
        let lines = include_str!("vectors.txt").lines().skip_while(|line| line.split(' ').next() != Some(heading));
        Self(lines.skip(1).take_while(|line| line.starts_with("    ")).map(parse).collect())
    }

    /// The `nth` line of that name, counted from 0.
    pub(crate) fn nth(&self, name: &str, nth: usize) -> Vector {
        let mut found = self.0.iter().filter(|(n, _)| n == name).map(|(_, v)| v.clone());
        found.nth(nth).unwrap_or_else(|| panic!("no line {nth} called {name}"))
    }

    pub(crate) fn get(&self, name: &str) -> Vector {
        self.nth(name, 0)
    }
}

impl Vector {
    pub(crate) fn narrow(&self) -> Vec<f32> {
        self.values.iter().map(|&x| x as f32).collect()
    }
}

fn parse(line: &str) -> (String, Vector) {
    let (name, rest) = line.trim().split_once('[').expect("a name and a shape");
    let (shape, values) = rest.split_once(']').expect("a shape ends");
    let mut ne = [1; 4];
    for (n, text) in ne.iter_mut().zip(shape.split(',')) {
        *n = text.parse().expect("a size");
    }
    let values: Vec<f64> = values.split_whitespace().map(|v| v.parse().expect("a number")).collect();
    assert_eq!(values.len(), ne.iter().product::<usize>(), "{line}");
    (name.trim().to_owned(), Vector { ne, values })
}
