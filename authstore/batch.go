package authstore

import (
	"fmt"
	"hash/crc32"
	"strings"
)

type write struct {
	row     row
	entry   Entry
	del     bool
	landing int
}

func (w write) size() int { return len(w.entry.Key.Kind) + len(w.entry.Key.ID) + len(w.entry.Value) }

func toBatch(ws []write) Batch {
	var b Batch
	for _, w := range ws {
		if w.del {
			b.Delete = append(b.Delete, w.entry.Key)
		} else {
			b.Put = append(b.Put, w.entry)
		}
	}
	return b
}

// chunk cuts ws into batches within lim, in order. A key stands once in a
// batch.
func chunk(lim Limits, ws []write) [][]write {
	var out [][]write
	var cur []write
	size := 0
	seen := make(map[Key]bool)
	for _, w := range ws {
		n := w.size()
		full := lim.MaxKeys > 0 && len(cur) == lim.MaxKeys || lim.MaxBatch > 0 && size+n > lim.MaxBatch || seen[w.entry.Key]
		if full && len(cur) > 0 {
			out = append(out, cur)
			cur, size = nil, 0
			clear(seen)
		}
		cur = append(cur, w)
		seen[w.entry.Key] = true
		size += n
	}
	if len(cur) > 0 {
		out = append(out, cur)
	}
	return out
}

func partKeys(k Key, m manifest) []Key {
	gen, _, _ := strings.Cut(k.ID, "/")
	out := make([]Key, m.count)
	sum := crc32.Checksum([]byte(string(k.Kind)+"\x00"+k.ID), castagnoli)
	for i := range out {
		out[i] = Key{kindPart, fmt.Sprintf("%s/%s-%08x-%s/%d", gen, k.Kind, sum, m.nonce, i)}
	}
	return out
}
