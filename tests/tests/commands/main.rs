//! The commands as somebody types them: what they refuse and say, what a run at work lets others see, and the way from nothing to error bars.

mod command_line;
mod seeing;
mod simulate_train;
