//! The readable decoders and encoders against ggml's own, on random blocks of every type.

use crate::models::runtime;
use crate::random::Random;
use quant::Type;

/// Blocks of any codes whose scales are finite numbers of ordinary size.
fn blocks(ty: Type, n: usize, random: &mut Random) -> Vec<u8> {
    let scales: &[usize] = match ty {
        Type::Q2_K => &[80, 82],
        Type::Q3_K => &[108],
        Type::Q4_1 | Type::Q5_1 | Type::Q4_K | Type::Q5_K | Type::Q8_1 => &[0, 2],
        Type::Q6_K => &[208],
        Type::TQ1_0 => &[52],
        Type::TQ2_0 => &[64],
        // d is scattered over nibbles, or no F16.
        Type::IQ1_M | Type::MXFP4 | Type::NVFP4 | Type::Q8_K => &[],
        _ => &[0],
    };
    let mut out = Vec::new();
    for _ in 0..n {
        let mut block: Vec<u8> = (0..ty.block_bytes()).map(|_| random.below(256) as u8).collect();
        for &at in scales {
            let d = half::f16::from_f32(random.uniform() * 2.0);
            block[at..at + 2].copy_from_slice(&d.to_le_bytes());
        }
        if ty == Type::IQ1_M {
            // An exponent below that of infinity.
            block[55] &= 0xbf;
        }
        if matches!(ty, Type::Q8_K | Type::F32) {
            block[..4].copy_from_slice(&random.uniform().to_le_bytes());
        }
        out.extend(block);
    }
    out
}

#[test]
fn every_type_decodes_as_in_ggml_bit_for_bit() {
    let runtime = runtime();
    let mut seen = 0;
    for &ty in Type::ALL {
        if matches!(ty, Type::I8 | Type::I16 | Type::I32 | Type::I64 | Type::F64) {
            assert_eq!(quant::dequantize_row(ty, &[], &mut []), Err(quant::Error::Unsupported(ty)));
            continue;
        }
        // Activations are rounded to these two, and never decoded.
        if ty != Type::F32 && runtime.to_float(ty).is_none() {
            assert!(matches!(ty, Type::Q8_1 | Type::Q8_K), "{}", ty.name());
            continue;
        }
        // Enough for every entry of the largest code book.
        let n_blocks = (1 << 18) / ty.block_len();
        let bytes = blocks(ty, n_blocks, &mut Random::of(ty.name()));
        let (mut ours, mut theirs) = (vec![0.0f32; n_blocks * ty.block_len()], vec![0.0; n_blocks * ty.block_len()]);
        quant::dequantize_row(ty, &bytes, &mut ours).unwrap();
        runtime.dequantize(ty, &bytes, &mut theirs).unwrap();
        let differs = ours.iter().zip(&theirs).position(|(a, b)| a != b && !(a.is_nan() && b.is_nan()));
        let at = differs.map(|i| (i % ty.block_len(), ours[i], theirs[i]));
        assert_eq!(at, None, "{}: value in the block, ours, ggml's", ty.name());
        assert!(ours.iter().filter(|x| **x != 0.0 && x.is_finite()).count() > ours.len() / 2, "{}", ty.name());
        seen += 1;
    }
    assert!(seen >= 27, "{seen} types");
}

#[test]
fn q8_1_and_q8_k_are_q8_0_with_sums() {
    let mut random = Random::of("q8_1");
    let bytes = blocks(Type::Q8_1, 4, &mut random);
    let short: Vec<u8> = bytes.chunks_exact(36).flat_map(|b| [&b[..2], &b[4..]].concat()).collect();
    let (mut a, mut b) = ([0.0; 128], [0.0; 128]);
    quant::dequantize_row(Type::Q8_1, &bytes, &mut a).unwrap();
    quant::dequantize_row(Type::Q8_0, &short, &mut b).unwrap();
    assert_eq!(a, b);
    let mut bytes = vec![7u8; Type::Q8_K.block_bytes()];
    bytes[..4].copy_from_slice(&0.5f32.to_le_bytes());
    bytes[4..6].copy_from_slice(&[3, 0xfe]);
    let mut values = [0.0; 256];
    quant::dequantize_row(Type::Q8_K, &bytes, &mut values).unwrap();
    assert_eq!((values[0], values[1], values[255]), (1.5, -1.0, 3.5));
}

#[test]
fn encoders_write_what_ggml_writes() {
    let mut random = Random::of("encoders");
    let values: Vec<f32> = (0..1 << 14).map(|i| random.uniform() * [1.0, 1e-3, 30.0, 0.0][i / 32 % 4]).collect();
    for ty in [Type::F32, Type::F16, Type::BF16, Type::Q4_0, Type::Q4_1, Type::Q8_0] {
        let (ours, theirs) = (quant::quantize_row(ty, &values).unwrap(), runtime().quantize(ty, &values, 1 << 10));
        let theirs = theirs.unwrap();
        let differs = ours.iter().zip(&theirs).position(|(a, b)| a != b);
        assert_eq!((differs, ours.len()), (None, theirs.len()), "{}", ty.name());
    }
}

/// Steps beyond what an F16 holds, and so small that their inverse is near the largest F32.
#[test]
fn blocks_of_extreme_sizes_are_encoded_alike() {
    let mut random = Random::of("extremes");
    let sizes = [1e37, 1e6, 65_504.0, 1e-4, 1e-7, 1e-20, 1e-36];
    let values: Vec<f32> = (0..1 << 12).map(|i| random.uniform() * sizes[i / 32 % sizes.len()]).collect();
    for ty in [Type::F16, Type::BF16, Type::Q8_0] {
        let (ours, theirs) = (quant::quantize_row(ty, &values).unwrap(), runtime().quantize(ty, &values, 1 << 8));
        let differs = ours.iter().zip(&theirs.unwrap()).position(|(a, b)| a != b);
        assert_eq!(differs, None, "{}", ty.name());
    }
}
