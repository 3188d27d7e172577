//! stub
#![allow(missing_docs)]
pub mod logprob {
 pub fn log_prob(l:&[f32],t:usize)->f32{ let m=l.iter().fold(f32::MIN,|a,&b|a.max(b)); let s:f64=l.iter().map(|&x|((x-m) as f64).exp()).sum(); (l[t]-m) - s.ln() as f32 }
 pub fn unit_gradient(l:&mut [f32],t:usize)->f32{ let m=l.iter().fold(f32::MIN,|a,&b|a.max(b)); let s:f64=l.iter().map(|&x|((x-m) as f64).exp()).sum(); let lp=(l[t]-m) - s.ln() as f32; for x in l.iter_mut(){*x=-(((*x-m) as f64).exp()/s) as f32;} l[t]=-(lp.exp_m1()); lp }
}
