//! `dft demo`.
use crate::cli::DemoArgs;
use crate::failure::Failure;
pub(super) async fn run(_args: DemoArgs) -> Result<(), Failure> {
    Ok(())
}
