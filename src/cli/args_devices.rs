//! Flags that choose where a model's weights lie, spelled as in llama.cpp.

use clap::{Args, CommandFactory};

#[derive(Debug, Args)]
pub(super) struct Devices {
    /// Blocks whose weights go to the devices, counted from the last: a number, or all [default: all, if --device is given]
    #[arg(long = "n-gpu-layers", alias = "gpu-layers", value_parser = layers, help_heading = "Devices")]
    n_gpu_layers: Option<u32>,
    /// Devices that compute, separated by commas, or none: the CPU [default: none, or every GPU if -ngl is given]
    #[arg(long, help_heading = "Devices")]
    device: Option<String>,
    /// List the devices and exit
    #[arg(long, help_heading = "Devices")]
    list_devices: bool,
}

impl Devices {
    /// Names as they were given.
    pub(super) fn names(&self) -> Option<&str> {
        self.device.as_deref()
    }

    /// Blocks to move.
    pub(super) fn n_gpu_layers(&self) -> Option<u32> {
        self.n_gpu_layers
    }
}

/// A number of blocks; all of them are more than any model has.
fn layers(text: &str) -> Result<u32, String> {
    match text {
        "all" | "-1" => Ok(crate::runtime::ALL_LAYERS),
        _ => text.parse().map_err(|_| "expected a number or all".to_owned()),
    }
}

/// True if a command with devices is asked for their list: then nothing else need be given.
pub(super) fn wants_list(arguments: &[String]) -> bool {
    let program = super::args::Options::command();
    let command = arguments.get(1).and_then(|name| program.find_subcommand(name));
    command.is_some_and(|command| command.get_arguments().any(|argument| argument.get_id() == "list_devices"))
        && arguments[1..].iter().any(|a| ["--list-devices", "--list_devices"].contains(&a.as_str()))
}

/// llama.cpp's short spellings of several letters.
pub(super) fn spelled_out(argument: String) -> String {
    match argument.as_str() {
        "-ngl" => "--n-gpu-layers".into(),
        "-dev" => "--device".into(),
        _ => argument,
    }
}
