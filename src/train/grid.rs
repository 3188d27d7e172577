//! `[grid]`: one configuration, several values of some of its keys, a run for each combination.

use super::config::TrainConfig;
use crate::error::{Error, Kind, Result};
use toml::{Table, Value};

/// More combinations than anyone means.
const CELLS_MAX: usize = 10_000;

/// The keys that vary, with their values.
#[derive(Clone, Debug, PartialEq)]
pub struct Grid {
    source: String,
    rest: Table,
    axes: Vec<(String, Vec<Value>)>,
}

/// One combination.
#[derive(Clone, Debug, PartialEq)]
pub struct Cell {
    /// `key=value` for each axis, separated by commas: a directory's name.
    pub name: String,
    /// The configuration with these values.
    pub config: TrainConfig,
}

impl Grid {
    /// Reads a configuration's text; nothing if it has no `[grid]`.
    ///
    /// # Errors
    /// [`Kind::Argument`] for an axis that is no list of different plain values.
    pub fn from_toml(text: &str, source: &str) -> Result<Option<Self>> {
        let bad = |what: String| Error::new(Kind::Argument, format!("{source}: {what}"));
        let mut rest: Table = text.parse().map_err(|e: toml::de::Error| bad(e.to_string().trim().to_owned()))?;
        let Some(grid) = rest.remove("grid") else { return Ok(None) };
        let Value::Table(grid) = grid else { return Err(bad("grid: expected a table of lists".to_owned())) };
        let mut axes = Vec::new();
        for (key, values) in grid {
            let plain = |v: &Value| !matches!(v, Value::Table(_) | Value::Array(_) | Value::Datetime(_));
            match values {
                Value::Array(values) if !values.is_empty() && values.iter().all(plain) => axes.push((key, values)),
                _ => return Err(bad(format!("grid.{key}: expected a list of values"))),
            }
        }
        // A table's own order depends on how the parser was built; names of directories may not.
        axes.sort_by(|a, b| a.0.cmp(&b.0));
        let n_cells = axes.iter().try_fold(1usize, |n, (_, values)| n.checked_mul(values.len()));
        if axes.is_empty() || n_cells.is_none_or(|n| n > CELLS_MAX) {
            return Err(bad(format!("grid: expected 1 to {CELLS_MAX} combinations")));
        }
        Ok(Some(Self { source: source.to_owned(), rest, axes }))
    }

    /// The keys that vary.
    pub fn axes(&self) -> Vec<&str> {
        self.axes.iter().map(|(key, _)| key.as_str()).collect()
    }

    /// All keys that the file gives, the varying ones last.
    pub fn keys(&self) -> Vec<String> {
        self.rest.keys().chain(self.axes.iter().map(|(key, _)| key)).cloned().collect()
    }

    /// All combinations, axes in the order of their names, the last one fastest.
    ///
    /// # Errors
    /// [`Kind::Argument`] for a key or a value that no configuration takes, and for two combinations of one name.
    pub fn cells(&self) -> Result<Vec<Cell>> {
        let mut tables = vec![(Vec::new(), self.rest.clone())];
        for (key, values) in &self.axes {
            let with = |(names, table): &(Vec<String>, Table), value: &Value| {
                let (mut names, mut table) = (names.clone(), table.clone());
                names.push(format!("{key}={}", plain(value)));
                table.insert(key.clone(), value.clone());
                (names, table)
            };
            tables = tables.iter().flat_map(|cell| values.iter().map(|value| with(cell, value))).collect();
        }
        let mut cells: Vec<Cell> = Vec::with_capacity(tables.len());
        for (names, table) in tables {
            let name = names.join(",");
            if cells.iter().any(|cell| cell.name == name) {
                let message = format!("{}: grid: two combinations are called {name}", self.source);
                return Err(Error::new(Kind::Argument, message));
            }
            let text = toml::to_string(&table).map_err(|e| Error::new(Kind::Internal, e.to_string()))?;
            let config = TrainConfig::from_toml(&text, &format!("{}: grid: {name}", self.source))?;
            cells.push(Cell { name, config });
        }
        Ok(cells)
    }

    /// Refuses a flag that would give all cells of an axis the same value: `changed` is a cell's configuration with flags.
    pub fn check_flags(&self, cell: &Cell, changed: &TrainConfig) -> Result<()> {
        let table = |config: &TrainConfig| -> Result<Table> {
            config.to_toml()?.parse().map_err(|e: toml::de::Error| Error::new(Kind::Internal, e.to_string()))
        };
        let (before, after) = (table(&cell.config)?, table(changed)?);
        match self.axes.iter().find(|(key, _)| before.get(key) != after.get(key)) {
            Some((key, _)) => {
                let message = format!("--{}: {} has it as an axis of its grid", key.replace('_', "-"), self.source);
                Err(Error::new(Kind::Argument, message))
            }
            None => Ok(()),
        }
    }
}

/// A value as part of a directory's name.
fn plain(value: &Value) -> String {
    let text = match value {
        Value::String(s) => s.clone(),
        other => other.to_string(),
    };
    text.chars().map(|c| if c.is_ascii_alphanumeric() || "._-".contains(c) { c } else { '-' }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_combination_once_in_a_fixed_order() {
        let text = "beta = 0.2\n[grid]\nseed = [0, 1]\nloss_type = [\"sigmoid\", \"ipo\"]\n";
        let cells = Grid::from_toml(text, "f").unwrap().unwrap().cells().unwrap();
        let names: Vec<_> = cells.iter().map(|c| c.name.as_str()).collect();
        let wanted =
            ["loss_type=sigmoid,seed=0", "loss_type=sigmoid,seed=1", "loss_type=ipo,seed=0", "loss_type=ipo,seed=1"];
        assert_eq!(names, wanted);
        assert!(cells.iter().all(|c| c.config.beta == 0.2));
        assert_eq!((cells[2].config.loss_type.as_str(), cells[3].config.seed), ("ipo", 1));
        assert_eq!(Grid::from_toml("beta = 0.2", "f").unwrap(), None);
    }

    #[test]
    fn what_is_no_grid_is_refused_by_name() {
        let cells = |text: &str| Grid::from_toml(text, "f").and_then(|g| g.unwrap().cells()).unwrap_err().to_string();
        for (text, says) in [
            ("[grid]\nseed = 1", "grid.seed"),
            ("[grid]\nseed = []", "grid.seed"),
            ("[grid]", "combinations"),
            ("grid = 3", "grid"),
            ("[grid]\nseeds = [1]", "seeds"),
            ("[grid]\nlora_targets = [\"a b\", \"a-b\"]", "lora_targets=a-b"),
            ("[grid]\nbeta = [\"x\"]", "beta"),
        ] {
            let error = cells(text);
            assert!(error.starts_with("f: ") && error.contains(says), "{error}");
        }
    }

    #[test]
    fn a_flag_may_not_flatten_an_axis() {
        let grid = Grid::from_toml("[grid]\nseed = [0, 1]", "f").unwrap().unwrap();
        let cell = grid.cells().unwrap().remove(1);
        let with_flags = |seed| TrainConfig { seed, max_steps: 3, ..cell.config.clone() };
        assert!(grid.check_flags(&cell, &with_flags(1)).is_ok());
        assert!(grid.check_flags(&cell, &with_flags(0)).unwrap_err().to_string().contains("--seed"));
    }
}
