//! The search: the ratios of the groups that make the aligned model's responses likeliest (arXiv 2309.06256, algorithm 1 and
//! equation 9), at a fixed mean.

use super::nelder_mead::{minimise, Limits};
use super::{Groups, Objective, Penalty, Ratios};
use crate::data::order;
use crate::error::{Error, Kind, Result};
use serde::Serialize;

/// How ratios are found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Solver {
    /// Adam (Kingma and Ba 2015) on s with exact gradients, over batches of responses.
    Gradient,
    /// Nelder and Mead on s, from likelihoods of all responses alone.
    NelderMead,
}

impl Solver {
    /// Reads its name.
    pub fn from_name(name: &str) -> Result<Self> {
        match name {
            "gradient" => Ok(Self::Gradient),
            "nelder-mead" => Ok(Self::NelderMead),
            _ => Err(Error::new(Kind::Argument, format!("--solver {name}: neither gradient nor nelder-mead"))),
        }
    }
}

/// A search's numbers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SearchParams {
    /// How.
    pub solver: Solver,
    /// The regulariser.
    pub penalty: Penalty,
    /// Step of Adam at first, in units of s; it falls as a cosine.
    pub learning_rate: f64,
    /// Passes over the responses; 0: three, or as many as make 50 steps.
    pub epochs: usize,
    /// Responses per step; 0 takes all.
    pub batch_size: usize,
    /// Evaluations of all responses that Nelder and Mead may take.
    pub evaluations: usize,
    /// Seed of the order.
    pub seed: u64,
}

impl Default for SearchParams {
    /// Gradients, without a regulariser.
    fn default() -> Self {
        Self {
            solver: Solver::Gradient,
            penalty: Penalty::default(),
            learning_rate: 0.2,
            epochs: 0,
            batch_size: 16,
            evaluations: 60,
            seed: 0,
        }
    }
}

impl SearchParams {
    /// Checks the bounds.
    ///
    /// # Errors
    /// [`Kind::Argument`], naming the flag.
    pub fn validate(&self) -> Result<()> {
        let bad = |what: String| Err(Error::new(Kind::Argument, what));
        if !(self.learning_rate > 0.0 && self.learning_rate.is_finite()) {
            return bad(format!("--learning-rate {}: not a positive number", self.learning_rate));
        }
        if self.epochs > 10_000 {
            return bad(format!("--epochs {}: more than 10000", self.epochs));
        }
        if self.evaluations == 0 || self.evaluations > 1_000_000 {
            return bad(format!("--evaluations {}: outside 1 to 1000000", self.evaluations));
        }
        if !(self.penalty.rho >= 0.0 && self.penalty.rho.is_finite()) {
            return bad(format!("--rho {}: not a number from 0 on", self.penalty.rho));
        }
        Ok(())
    }
}

/// One step of a search, to be shown.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Told {
    /// Steps done.
    pub step: usize,
    /// Steps at most.
    pub n_steps: usize,
    /// What was minimised, per token: of the step's responses, or of all of them.
    pub objective: f64,
    /// Ratios of the groups that it was measured at: weights of the model before.
    pub ratios: Vec<f64>,
}

/// What a search found.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Found {
    /// Weight of the model before, by group.
    pub ratios: Vec<f64>,
    /// Negative log-likelihood per token of all responses at these ratios, without the regulariser.
    pub nll: f64,
    /// The same where every ratio is the mean.
    pub nll_uniform: f64,
    /// The regulariser there.
    pub penalty: f64,
    /// Slope of the likelihood by each group's ratio at uniform ratios; none where nothing was differentiated.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub slopes_uniform: Option<Vec<f64>>,
    /// Passes forward over one response each, and those with a gradient among them.
    pub n_forwards: usize,
    /// The latter.
    pub n_gradients: usize,
    /// The way.
    pub steps: Vec<Told>,
}

/// Adam's decay rates and what keeps it from dividing by nothing.
const BETAS: [f64; 2] = [0.9, 0.999];
const TINY: f64 = 1e-12;
/// Passes over the responses where nothing is said, and steps that they make at least: s has to move by several units.
const EPOCHS_MIN: usize = 3;
const STEPS_MIN: usize = 50;
/// Edge of Nelder and Mead's first simplex in s, and the spread of values per token at which it stops.
const EDGE: f64 = 1.0;
const SPREAD: f64 = 1e-6;

/// Finds ratios. Where nothing better than uniform ones is found, these are the result. `n_linears`: what the regulariser counts, by
/// block. `tell` hears of every step and ends the search by `false`.
pub fn search(
    objective: &mut dyn Objective,
    groups: &Groups,
    ratios: &Ratios,
    n_linears: &[usize],
    params: &SearchParams,
    tell: &mut dyn FnMut(&Told) -> bool,
) -> Result<Found> {
    params.validate()?;
    if objective.n_rows() == 0 {
        return Err(Error::new(Kind::Data, "no response to search by"));
    }
    if ratios.n_groups() != groups.n_groups() {
        return Err(Error::new(
            Kind::Argument,
            format!("{} ratios for {} groups", ratios.n_groups(), groups.n_groups()),
        ));
    }
    let coefficients = params.penalty.coefficients(groups, n_linears);
    let all: Vec<usize> = (0..objective.n_rows()).collect();
    let steps = Vec::new();
    let mut search = Search { objective, groups, ratios, params, coefficients, all, steps, best: None, counts: [0; 2] };
    let start = ratios.start();
    let (uniform, slopes) = search.start(&start)?;
    match params.solver {
        _ if groups.n_groups() == 1 => {}
        Solver::Gradient => search.adam(start, tell)?,
        Solver::NelderMead => search.simplex(&start, tell)?,
    }
    let Search { best, steps, counts: [n_forwards, n_gradients], .. } = search;
    let best = best.unwrap_or_else(|| uniform.clone());
    Ok(Found {
        ratios: best.ratios,
        nll: best.nll,
        nll_uniform: uniform.nll,
        penalty: best.penalty,
        slopes_uniform: slopes,
        n_forwards,
        n_gradients,
        steps,
    })
}

/// All responses at some ratios.
#[derive(Clone)]
struct Point {
    ratios: Vec<f64>,
    nll: f64,
    penalty: f64,
}

struct Search<'a> {
    objective: &'a mut dyn Objective,
    groups: &'a Groups,
    ratios: &'a Ratios,
    params: &'a SearchParams,
    coefficients: Vec<f64>,
    all: Vec<usize>,
    steps: Vec<Told>,
    best: Option<Point>,
    counts: [usize; 2],
}

impl Search<'_> {
    /// The uniform ratios, with slopes where the solver forms them.
    fn start(&mut self, s: &[f64]) -> Result<(Point, Option<Vec<f64>>)> {
        if self.params.solver == Solver::NelderMead {
            return Ok((self.whole(s)?, None));
        }
        let rows = self.all.clone();
        let (point, slopes) = self.slopes(&rows, s)?;
        self.keep(&point);
        Ok((point, Some(slopes)))
    }

    fn keep(&mut self, point: &Point) {
        if self.best.as_ref().is_none_or(|best| point.nll + point.penalty < best.nll + best.penalty) {
            self.best = Some(point.clone());
        }
    }

    /// All responses at s, without a gradient.
    fn whole(&mut self, s: &[f64]) -> Result<Point> {
        let ratios = self.ratios.at(s);
        let (penalty, _) = self.params.penalty.at(&ratios, self.ratios.mean(), &self.coefficients);
        self.counts[0] += self.all.len();
        let nll = self.objective.nll(&self.all, &self.groups.spread(&ratios))?.mean();
        let point = Point { ratios, nll, penalty };
        self.keep(&point);
        Ok(point)
    }

    /// Some responses at s, and the slope of their likelihood per token by the groups' ratios.
    fn slopes(&mut self, rows: &[usize], s: &[f64]) -> Result<(Point, Vec<f64>)> {
        let ratios = self.ratios.at(s);
        let (penalty, _) = self.params.penalty.at(&ratios, self.ratios.mean(), &self.coefficients);
        self.counts = [self.counts[0] + rows.len(), self.counts[1] + rows.len()];
        let (total, by_layer) = self.objective.gradient(rows, &self.groups.spread(&ratios))?;
        let n = total.n_tokens.max(1) as f64;
        let slopes = self.groups.gather(&by_layer).into_iter().map(|g| g / n).collect();
        Ok((Point { ratios, nll: total.mean(), penalty }, slopes))
    }

    fn tell(&mut self, n_steps: usize, point: &Point, tell: &mut dyn FnMut(&Told) -> bool) -> bool {
        let (step, objective) = (self.steps.len() + 1, point.nll + point.penalty);
        let told = Told { step, n_steps, objective, ratios: point.ratios.clone() };
        let go_on = tell(&told);
        self.steps.push(told);
        go_on
    }

    /// Adam over batches; all responses are measured after every pass.
    fn adam(&mut self, mut s: Vec<f64>, tell: &mut dyn FnMut(&Told) -> bool) -> Result<()> {
        let n = self.all.len();
        let size = if self.params.batch_size == 0 { n } else { self.params.batch_size.min(n) };
        let per_epoch = n.div_ceil(size);
        let epochs = match self.params.epochs {
            0 => EPOCHS_MIN.max(STEPS_MIN.div_ceil(per_epoch)),
            given => given,
        };
        let n_steps = epochs * per_epoch;
        let (mut first, mut second) = (vec![0.0; s.len()], vec![0.0; s.len()]);
        let mut step = 0;
        for epoch in 0..epochs {
            let order: Vec<usize> =
                order(n as u32, self.params.seed, epoch as u64).into_iter().map(|i| i as usize).collect();
            for rows in order.chunks(size) {
                let (point, slopes) = self.slopes(rows, &s)?;
                let (_, by_penalty) = self.params.penalty.at(&point.ratios, self.ratios.mean(), &self.coefficients);
                let by_ratio: Vec<f64> = slopes.iter().zip(by_penalty).map(|(g, p)| g + p).collect();
                let gradient = self.ratios.pull_back(&s, &by_ratio);
                step += 1;
                let rate = self.params.learning_rate
                    * 0.5
                    * (1.0 + (std::f64::consts::PI * (step - 1) as f64 / n_steps as f64).cos());
                for i in 0..s.len() {
                    let g = gradient[i];
                    first[i] = BETAS[0] * first[i] + (1.0 - BETAS[0]) * g;
                    second[i] = BETAS[1] * second[i] + (1.0 - BETAS[1]) * g * g;
                    let (m, v) = (first[i] / (1.0 - BETAS[0].powi(step)), second[i] / (1.0 - BETAS[1].powi(step)));
                    s[i] -= rate * m / (v.sqrt() + TINY);
                }
                if !self.tell(n_steps, &point, tell) {
                    return self.whole(&s).map(|_| ());
                }
            }
            self.whole(&s)?;
        }
        Ok(())
    }

    /// Nelder and Mead over K − 1 numbers: s moves in the plane where its sum stays.
    fn simplex(&mut self, start: &[f64], tell: &mut dyn FnMut(&Told) -> bool) -> Result<()> {
        let limits = Limits { evaluations: self.params.evaluations, spread: SPREAD };
        let middle = start[0];
        let free = vec![0.0; start.len() - 1];
        let mut ended = false;
        let mut value = |u: &[f64]| {
            if ended {
                return Ok(f64::INFINITY);
            }
            let mut s: Vec<f64> = u.iter().map(|u| middle + u).collect();
            s.push(middle - u.iter().sum::<f64>());
            let point = self.whole(&s)?;
            ended = !self.tell(limits.evaluations, &point, tell);
            Ok(point.nll + point.penalty)
        };
        minimise(&free, EDGE, limits, &mut value).map(|_| ())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hma::objective::Likelihood;
    use crate::hma::{Deviation, GroupRule, PenaltyWeights};

    /// Σ c·(a − t)², one token, equal for every row.
    struct Bowl {
        c: Vec<f64>,
        t: Vec<f64>,
        n_rows: usize,
    }

    impl Objective for Bowl {
        fn n_rows(&self) -> usize {
            self.n_rows
        }

        fn nll(&mut self, rows: &[usize], layers: &[f64]) -> Result<Likelihood> {
            let each = layers.iter().zip(&self.t).zip(&self.c).map(|((a, t), c)| c * (a - t) * (a - t));
            Ok(Likelihood { nll: each.sum::<f64>() * rows.len() as f64, n_tokens: rows.len() })
        }

        fn gradient(&mut self, rows: &[usize], layers: &[f64]) -> Result<(Likelihood, Vec<f64>)> {
            let n = rows.len() as f64;
            let slopes = layers.iter().zip(&self.t).zip(&self.c).map(|((a, t), c)| 2.0 * n * c * (a - t)).collect();
            Ok((self.nll(rows, layers)?, slopes))
        }
    }

    fn bowl() -> Bowl {
        Bowl { c: vec![1.0, 2.0, 4.0], t: vec![0.3, 0.2, 0.25], n_rows: 10 }
    }

    fn found(objective: &mut Bowl, params: &SearchParams) -> Found {
        let groups = Groups::parse("layers", GroupRule::Paper, 3).unwrap();
        let ratios = Ratios::new(0.2, 0.2, 3).unwrap();
        search(objective, &groups, &ratios, &[7; 3], params, &mut |_| true).unwrap()
    }

    #[test]
    fn both_solvers_find_the_known_solution_under_the_constraint() {
        // a = t − mu / (2c) with Σ a = 0.6: mu = (0.75 − 0.6) / Σ 1/(2c).
        let (c, t) = ([1.0, 2.0, 4.0], [0.3, 0.2, 0.25]);
        let mu = 0.15 / (0.5 + 0.25 + 0.125);
        let exact: Vec<f64> = (0..3).map(|i| t[i] - mu / (2.0 * c[i])).collect();
        let gradient = SearchParams { epochs: 200, learning_rate: 0.1, batch_size: 0, ..SearchParams::default() };
        let simplex = SearchParams { solver: Solver::NelderMead, evaluations: 200, ..SearchParams::default() };
        for (params, within) in [(gradient, 1e-5), (simplex, 2e-3)] {
            let found = found(&mut bowl(), &params);
            for (a, b) in found.ratios.iter().zip(&exact) {
                assert!((a - b).abs() < within, "{:?}: {:?} {exact:?}", params.solver, found.ratios);
            }
            assert!(found.nll < found.nll_uniform && found.penalty == 0.0);
            assert!((found.ratios.iter().sum::<f64>() - 0.6).abs() < 1e-12);
        }
    }

    #[test]
    fn a_strong_regulariser_keeps_ratios_uniform_and_one_group_has_nothing_to_find() {
        for deviation in [Deviation::Absolute, Deviation::Squared] {
            let penalty = Penalty { rho: 100.0, deviation, weights: PenaltyWeights::Even };
            let held = found(&mut bowl(), &SearchParams { penalty, epochs: 50, ..SearchParams::default() });
            assert!(held.ratios.iter().all(|a| (a - 0.2).abs() < 1e-3), "{:?}", held.ratios);
            assert!(held.nll + held.penalty <= held.nll_uniform);
        }
        let (one, ratios) = (Groups::parse("1", GroupRule::Paper, 3).unwrap(), Ratios::new(0.2, 0.2, 1).unwrap());
        let found = search(&mut bowl(), &one, &ratios, &[7; 3], &SearchParams::default(), &mut |_| true).unwrap();
        assert_eq!((found.ratios, found.steps.len()), (vec![0.2], 0));
    }

    #[test]
    fn equal_seeds_take_equal_ways_and_a_search_can_be_ended() {
        let params = SearchParams { epochs: 4, batch_size: 4, ..SearchParams::default() };
        let (a, b) = (found(&mut bowl(), &params), found(&mut bowl(), &params));
        assert_eq!((&a, a.steps.len()), (&b, 12));
        let groups = Groups::parse("layers", GroupRule::Paper, 3).unwrap();
        let ratios = Ratios::new(0.2, 0.2, 3).unwrap();
        for solver in [Solver::Gradient, Solver::NelderMead] {
            let params = SearchParams { solver, ..params };
            let ended = search(&mut bowl(), &groups, &ratios, &[7; 3], &params, &mut |t| t.step < 2).unwrap();
            assert_eq!(ended.steps.len(), 2);
        }
    }

    #[test]
    fn numbers_out_of_bounds_are_refused_by_their_flags() {
        let good = SearchParams::default();
        let bad = [
            ("--learning-rate", SearchParams { learning_rate: 0.0, ..good }),
            ("--epochs", SearchParams { epochs: 10_001, ..good }),
            ("--evaluations", SearchParams { evaluations: 0, ..good }),
            ("--rho", SearchParams { penalty: Penalty { rho: f64::NAN, ..good.penalty }, ..good }),
        ];
        for (flag, params) in bad {
            assert!(params.validate().unwrap_err().to_string().contains(flag));
        }
        assert!(Solver::from_name("spsa").is_err());
    }
}
