-- why: the books of the shops that are sending are compared every few seconds, and the holds of every broadcast there ever
-- was must not be read for it. Small: a broadcast is in it only while it sends.
create index if not exists token_hold_open on token_hold (shop_id) where state = 'open';
