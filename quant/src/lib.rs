//! stub
#![allow(missing_docs)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[allow(non_camel_case_types)]
#[repr(u32)]
pub enum Type { F32=0,F16=1,Q4_0=2,Q4_1=3,Q5_0=6,Q5_1=7,Q8_0=8,Q8_1=9,Q2_K=10,Q3_K=11,Q4_K=12,Q5_K=13,Q6_K=14,Q8_K=15,I8=24,I16=25,I32=26,I64=27,F64=28,BF16=30 }
impl Type {
    pub const ALL: [(Type,&'static str,usize,usize);20]=[(Type::F32,"f32",1,4),(Type::F16,"f16",1,2),(Type::Q4_0,"q4_0",32,18),(Type::Q4_1,"q4_1",32,20),(Type::Q5_0,"q5_0",32,22),(Type::Q5_1,"q5_1",32,24),(Type::Q8_0,"q8_0",32,34),(Type::Q8_1,"q8_1",32,36),(Type::Q2_K,"q2_K",256,84),(Type::Q3_K,"q3_K",256,110),(Type::Q4_K,"q4_K",256,144),(Type::Q5_K,"q5_K",256,176),(Type::Q6_K,"q6_K",256,210),(Type::Q8_K,"q8_K",256,292),(Type::I8,"i8",1,1),(Type::I16,"i16",1,2),(Type::I32,"i32",1,4),(Type::I64,"i64",1,8),(Type::F64,"f64",1,8),(Type::BF16,"bf16",1,2)];
    pub fn from_id(id:u32)->Option<Type>{Self::ALL.iter().find(|t|t.0 as u32==id).map(|t|t.0)}
    pub fn id(self)->u32{self as u32}
    fn e(self)->&'static (Type,&'static str,usize,usize){Self::ALL.iter().find(|t|t.0==self).unwrap()}
    pub fn name(self)->&'static str{self.e().1}
    pub fn block_len(self)->usize{self.e().2}
    pub fn block_bytes(self)->usize{self.e().3}
    pub fn row_bytes(self,n:u64)->Option<u64>{ if n%self.block_len() as u64==0{Some(n/self.block_len() as u64*self.block_bytes() as u64)}else{None}}
    pub fn is_quantized(self)->bool{self.block_len()>1}
}
pub fn dequantize_row(ty:Type,src:&[u8],dst:&mut [f32])->Result<(),()>{ match ty{Type::F32=>{for (d,s) in dst.iter_mut().zip(src.chunks_exact(4)){*d=f32::from_le_bytes([s[0],s[1],s[2],s[3]]);}Ok(())} Type::F16=>{for (d,s) in dst.iter_mut().zip(src.chunks_exact(2)){*d=half::f16::from_le_bytes([s[0],s[1]]).to_f32();}Ok(())} _=>Err(())}}
