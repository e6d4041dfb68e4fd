//! Dead letters: listing, handing out again, dropping.

use std::time::Duration;

use apix::{DeadLetter, DeadLetterChoice, GroupKey, MessageId, Result};

use crate::error::malformed;
use crate::local::LocalGroup;
use crate::packed;
use crate::reader::no_such_group;
use crate::resp::Reply;
use crate::shared::Shared;
use crate::wire::id_text;

/// So many dead letters are settled by one call of the script.
const PAGE: usize = 200;

impl Shared {
    pub(crate) async fn dead_letters(
        &self,
        group: &GroupKey,
        after: Option<MessageId>,
        limit: usize,
    ) -> Result<Vec<DeadLetter>> {
        let local = self.local_group(group);
        let arguments = Self::group_arguments(&local, "")
            .and(after.map(id_text).unwrap_or_default())
            .and(limit.to_string());
        let listed =
            self.group_script(&self.scripts.dead_list, &local, &arguments).await?.reply()?;
        if listed == Reply::Nil {
            return Err(no_such_group(&local));
        }
        let tenant = group.stream.tenant();
        let letter = |pair: &[Reply]| {
            let id = pair[0].id().ok_or_else(|| malformed("no id"))?;
            packed::dead_letter(tenant, id, pair[1].text().ok_or_else(|| malformed("no copy"))?)
        };
        listed.array().chunks_exact(2).map(letter).collect()
    }

    pub(crate) async fn retry_dead_letters(
        &self,
        group: &GroupKey,
        which: &DeadLetterChoice,
    ) -> Result<u64> {
        let local = self.local_group(group);
        let retried = self.settle_dead_letters(&local, "retry", which).await?;
        if retried > 0 {
            local.hear_due(Duration::ZERO);
        }
        Ok(retried)
    }

    pub(crate) async fn discard_dead_letters(
        &self,
        group: &GroupKey,
        which: &DeadLetterChoice,
    ) -> Result<u64> {
        let local = self.local_group(group);
        self.settle_dead_letters(&local, "discard", which).await
    }

    async fn settle_dead_letters(
        &self,
        local: &LocalGroup,
        verb: &str,
        which: &DeadLetterChoice,
    ) -> Result<u64> {
        let mut total = 0;
        match which {
            DeadLetterChoice::Ids(ids) => {
                let mut pages = ids.chunks(PAGE);
                // The group is looked for also where no id is given.
                let first = pages.next().unwrap_or_default();
                for page in std::iter::once(first).chain(pages) {
                    let mut arguments = Self::group_arguments(local, "").and(verb).and("ids");
                    for id in page.iter().filter(|id| id.partition.is_none()) {
                        arguments.push(id_text(*id));
                    }
                    total += self.settle_page(local, &arguments).await?.0;
                }
            }
            DeadLetterChoice::All => {
                let mut resume = String::new();
                loop {
                    let arguments = Self::group_arguments(local, "")
                        .and(verb)
                        .and("all")
                        .and(&resume)
                        .and(PAGE.to_string());
                    let (settled, next) = self.settle_page(local, &arguments).await?;
                    total += settled;
                    if next.is_empty() {
                        break;
                    }
                    resume = next;
                }
            }
        }
        Ok(total)
    }

    async fn settle_page(
        &self,
        local: &LocalGroup,
        arguments: &crate::wire::Arguments,
    ) -> Result<(u64, String)> {
        let reply =
            self.group_script(&self.scripts.dead_settle, local, arguments).await?.reply()?;
        if reply == Reply::Nil {
            return Err(no_such_group(local));
        }
        let [settled, resume] = reply.array() else { return Err(malformed("two parts")) };
        let settled = settled.count().ok_or_else(|| malformed("no count"))?;
        Ok((settled, resume.utf8().unwrap_or_default().to_owned()))
    }
}
