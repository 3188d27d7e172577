//! stub
/// stub
pub trait Tokenize { 
/// t
fn tokenize(&self, text:&str, parse_special: bool) -> crate::error::Result<Vec<i32>>;
/// t
 fn bos(&self)->Option<i32>;
/// t
 fn eos(&self)->Option<i32>; 
/// t
 fn eot(&self)->Option<i32>;
/// t
 fn adds_bos(&self)->bool; 
/// t
 fn text_of(&self, token:i32)->String; }
/// stub
#[derive(Clone, Debug)]
pub struct Sequence { 
/// t
pub tokens: Vec<i32>, 
/// t
pub prompt_len: usize }
