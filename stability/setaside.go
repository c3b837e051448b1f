package stability

import "github.com/wastability/wastability/stability/internal/book"

// sizes is how much content the store has of messages that no handler has taken yet, by
// their states; missed is that without those that nobody misses. The caller holds mu.
func (r *received) sizes() (all, missed map[book.State]int64) {
	all, missed = make(map[book.State]int64), make(map[book.State]int64)
	for k, rec := range r.more {
		var n int64
		for _, raw := range rec.Contents {
			n += int64(len(raw))
		}
		st, is, ok := r.book.Counts(k)
		if n == 0 || !ok {
			continue
		}
		all[st] += n
		if is {
			missed[st] += n
		}
	}
	return all, missed
}
