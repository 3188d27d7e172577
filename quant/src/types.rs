//! The element types of ggml, by their number in the file format, which only ever grows.

macro_rules! types {
    ($($variant:ident = $id:literal, $name:literal, $len:literal, $bytes:literal;)+) => {
        /// A tensor type. The discriminant is its number in GGUF files.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[allow(non_camel_case_types, missing_docs)] // named as in ggml
        #[repr(u32)]
        pub enum Type { $($variant = $id,)+ }

        impl Type {
            /// All types.
            pub const ALL: &'static [Type] = &[$(Type::$variant,)+];

            /// ggml's name.
            pub fn name(self) -> &'static str {
                match self { $(Type::$variant => $name,)+ }
            }

            /// Values per block.
            pub fn block_len(self) -> usize {
                match self { $(Type::$variant => $len,)+ }
            }

            /// Bytes per block.
            pub fn block_bytes(self) -> usize {
                match self { $(Type::$variant => $bytes,)+ }
            }
        }
    };
}

types! {
    F32 = 0, "f32", 1, 4;
    F16 = 1, "f16", 1, 2;
    Q4_0 = 2, "q4_0", 32, 18;
    Q4_1 = 3, "q4_1", 32, 20;
    Q5_0 = 6, "q5_0", 32, 22;
    Q5_1 = 7, "q5_1", 32, 24;
    Q8_0 = 8, "q8_0", 32, 34;
    Q8_1 = 9, "q8_1", 32, 36;
    Q2_K = 10, "q2_K", 256, 84;
    Q3_K = 11, "q3_K", 256, 110;
    Q4_K = 12, "q4_K", 256, 144;
    Q5_K = 13, "q5_K", 256, 176;
    Q6_K = 14, "q6_K", 256, 210;
    Q8_K = 15, "q8_K", 256, 292;
    IQ2_XXS = 16, "iq2_xxs", 256, 66;
    IQ2_XS = 17, "iq2_xs", 256, 74;
    IQ3_XXS = 18, "iq3_xxs", 256, 98;
    IQ1_S = 19, "iq1_s", 256, 50;
    IQ4_NL = 20, "iq4_nl", 32, 18;
    IQ3_S = 21, "iq3_s", 256, 110;
    IQ2_S = 22, "iq2_s", 256, 82;
    IQ4_XS = 23, "iq4_xs", 256, 136;
    I8 = 24, "i8", 1, 1;
    I16 = 25, "i16", 1, 2;
    I32 = 26, "i32", 1, 4;
    I64 = 27, "i64", 1, 8;
    F64 = 28, "f64", 1, 8;
    IQ1_M = 29, "iq1_m", 256, 56;
    BF16 = 30, "bf16", 1, 2;
    TQ1_0 = 34, "tq1_0", 256, 54;
    TQ2_0 = 35, "tq2_0", 256, 66;
    MXFP4 = 39, "mxfp4", 32, 17;
    NVFP4 = 40, "nvfp4", 64, 36;
    Q1_0 = 41, "q1_0", 128, 18;
    Q2_0 = 42, "q2_0", 64, 18;
}

impl Type {
    /// The type with this number; `None` for numbers that were never given or whose type was removed.
    pub fn from_id(id: u32) -> Option<Self> {
        Self::ALL.iter().copied().find(|t| t.id() == id)
    }

    /// Its number in GGUF files.
    pub fn id(self) -> u32 {
        self as u32
    }

    /// Bytes of a row of `n` values; `None` if that is no whole number of blocks or overflows.
    pub fn row_bytes(self, n: u64) -> Option<u64> {
        let len = self.block_len() as u64;
        if !n.is_multiple_of(len) {
            return None;
        }
        (n / len).checked_mul(self.block_bytes() as u64)
    }

    /// True for block formats that store less than 16 bits per value.
    pub fn is_quantized(self) -> bool {
        self.block_len() > 1
    }
}
