//! What a reader knows of losses of its group.

use apix::MessageId;

/// Losses of the group up to ids that it had reached: entries up to there may have been handed out
/// without a trace.
pub(crate) struct Losses(Option<MessageId>);

impl Losses {
    /// What a glance says of them.
    pub(crate) fn read(marks: &str) -> Self {
        let upto = |mark: &str| mark.split_once(':').and_then(|(_, id)| id.parse().ok());
        Self(marks.split_whitespace().filter_map(upto).max())
    }

    /// Whether the event may have been handed out without a trace.
    pub(crate) fn may_hide(&self, id: MessageId) -> bool {
        self.0.is_some_and(|upto| id <= upto)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn up_to_the_last_that_the_group_had_reached() {
        let losses = Losses::read("1:5-0 2:7-3 ");
        assert!(losses.may_hide("7-3".parse().unwrap()));
        assert!(!losses.may_hide("7-4".parse().unwrap()));
        assert!(!Losses::read("").may_hide(MessageId::MIN));
    }
}
