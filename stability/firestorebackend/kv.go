package firestorebackend

import (
	"context"
	"fmt"
	"iter"
	"strings"
	"sync"

	"cloud.google.com/go/firestore"

	"github.com/wastability/wastability/authstore"
)

// limits keep a document below 1 MiB and a request below 4 MiB: the batch, and
// for each key its name in the request, which is at most 1.4 kB with a root of
// maxRoot bytes and a name of maxName.
var limits = authstore.Limits{MaxValue: 1_000_000, MaxBatch: 1_800_000, MaxKeys: 1500}

// keyValues implements authstore.KV.
type keyValues struct{ b *backend }

var _ authstore.KV = keyValues{}

// Limits implements authstore.KV.
func (s keyValues) Limits() authstore.Limits { return limits }

func (b *backend) doc(id string) *firestore.DocumentRef {
	if id == credsID {
		return b.credsDoc
	}
	return b.keys.Doc(id)
}

// checkFormat looks at the version of the arrangement, in the document creds.
func checkFormat(creds *firestore.DocumentSnapshot) error {
	f := fieldsOf(creds)
	if v := f.number("format"); f.err != nil {
		return damaged(credsID, "its field format is no number")
	} else if v > layoutVersion {
		return fmt.Errorf("firestorebackend: the session's documents have format %d, this library knows %d: %w", v, layoutVersion, authstore.ErrNewerFormat)
	}
	return nil
}

// formatKnown says whether the present writer has seen the format already.
func (b *backend) formatKnown() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.writer != nil && b.writer.know.formatOK
}

// request is a set of documents to read.
type request struct {
	b    *backend
	at   map[string]int
	refs []*firestore.DocumentRef
}

func (b *backend) request() *request { return &request{b: b, at: make(map[string]int)} }

func (r *request) add(id string) {
	if _, ok := r.at[id]; !ok {
		r.at[id] = len(r.refs)
		r.refs = append(r.refs, r.b.doc(id))
	}
}

// read returns the documents by id. The format is looked at on the way, where the
// present writer has not seen it.
func (r *request) read(ctx context.Context, op string) (map[string]*firestore.DocumentSnapshot, error) {
	if len(r.refs) == 0 {
		return nil, nil
	}
	st := r.b.stamp()
	unknown := !r.b.formatKnown()
	if unknown {
		r.add(credsID)
	}
	snaps, err := r.b.get(ctx, laneAuth, op, r.refs...)
	if err != nil {
		return nil, err
	}
	out := make(map[string]*firestore.DocumentSnapshot, len(snaps))
	for id, i := range r.at {
		out[id] = snaps[i]
	}
	if unknown {
		if err := checkFormat(out[credsID]); err != nil {
			return nil, err
		}
		r.b.learn(st, func(k *knowledge) { k.formatOK = true })
	}
	return out, nil
}

// Get reads buckets, and documents of their own beside the buckets that say
// that there are such. Only the finds of one request count: between two a key
// might move.
func (s keyValues) Get(ctx context.Context, keys ...authstore.Key) (map[authstore.Key][]byte, error) {
	const op = "get"
	b := s.b
	if err := b.enter(ctx, op); err != nil {
		return nil, err
	}
	places := make(map[authstore.Key]place, len(keys))
	for _, k := range keys {
		places[k] = placeOf(k)
	}
	beside := b.spilledBuckets(places)
	for range tries {
		req := b.request()
		for _, p := range places {
			if p.bucket != "" {
				req.add(p.bucket)
			}
			if p.bucket == "" || beside[p.bucket] {
				req.add(p.own)
			}
		}
		st := b.stamp()
		docs, err := req.read(ctx, op)
		if err != nil {
			return nil, err
		}
		out, again, err := pick(b, st, places, docs, beside)
		if err != nil {
			return nil, err
		}
		if !again {
			return out, nil
		}
	}
	return nil, fmt.Errorf("%w: %s: the keys moved while they were read", ErrUnavailable, op)
}

// spilledBuckets are those known to have keys in documents of their own.
func (b *backend) spilledBuckets(places map[authstore.Key]place) map[string]bool {
	out := make(map[string]bool)
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.writer == nil {
		return out
	}
	for _, p := range places {
		if bk := b.writer.know.buckets[p.bucket]; bk != nil && bk.spilled {
			out[p.bucket] = true
		}
	}
	return out
}

// pick finds the keys in what was read. again is true when a bucket has spilled
// and its other documents were not read; it is in beside then.
func pick(b *backend, st stamp, places map[authstore.Key]place, docs map[string]*firestore.DocumentSnapshot, beside map[string]bool) (out map[authstore.Key][]byte, again bool, err error) {
	in := make(map[authstore.Key][]byte)
	read := make(map[string]*bucket)
	spilled := make(map[string]bool) // read belongs to the writer once it is learnt
	for _, p := range places {
		if p.bucket == "" || read[p.bucket] != nil {
			continue
		}
		bk, entries, err := entriesOf(docs[p.bucket])
		if err != nil {
			return nil, false, err
		}
		read[p.bucket], spilled[p.bucket] = bk, bk.spilled
		for _, e := range entries {
			in[e.key] = e.value
		}
	}
	b.learn(st, func(k *knowledge) {
		for id, bk := range read {
			if k.buckets[id] == nil {
				k.set(id, bk)
			}
		}
	})
	out = make(map[authstore.Key][]byte, len(places))
	for k, p := range places {
		if v, ok := in[k]; ok {
			out[k] = v
			continue
		}
		own := docs[p.own]
		switch {
		case own == nil && spilled[p.bucket]:
			beside[p.bucket] = true
			again = true
		case own != nil && own.Exists():
			e, err := ownOf(own)
			if err != nil {
				return nil, false, err
			}
			out[k] = e.value
		}
	}
	return out, again, nil
}

// Scan reads everything before it yields: as of one moment, and nothing is held
// while its consumer works.
func (s keyValues) Scan(ctx context.Context, kind authstore.Kind, idPrefix string) iter.Seq2[authstore.Entry, error] {
	return func(yield func(authstore.Entry, error) bool) {
		entries, err := s.scan(ctx, kind, idPrefix)
		for _, e := range entries {
			if e.key.Kind == kind && strings.HasPrefix(e.key.ID, idPrefix) && !yield(authstore.Entry{Key: e.key, Value: e.value}, nil) {
				return
			}
		}
		if err != nil {
			yield(authstore.Entry{}, err)
		}
	}
}

func (s keyValues) scan(ctx context.Context, kind authstore.Kind, prefix string) ([]entry, error) {
	const op = "scan"
	b := s.b
	if err := b.enter(ctx, op); err != nil {
		return nil, err
	}
	r := ruleOf(kind)
	bucket := ""
	if r.buckets > 0 {
		if bucket = prefixBucket(kind, r, prefix); bucket != "" {
			return s.scanBucket(ctx, op, kind, bucket, prefix)
		}
	}
	if !b.formatKnown() {
		req := b.request()
		req.add(credsID)
		if _, err := req.read(ctx, op); err != nil {
			return nil, err
		}
	}
	if r.buckets == 0 {
		return s.owns(ctx, op, kind, prefix)
	}
	return s.scanKind(ctx, op, kind)
}

// scanKind reads all documents of a kind, in one request.
func (s keyValues) scanKind(ctx context.Context, op string, kind authstore.Kind) ([]entry, error) {
	b := s.b
	st := b.stamp()
	name := kindName(kind)
	docs, err := b.list(ctx, laneAuth, op, b.between(name, strings.TrimSuffix(name, "_")+"`"))
	if err != nil {
		return nil, err
	}
	var out []entry
	buckets := make(map[string]*bucket)
	var owns []entry
	for _, d := range docs {
		if !isBucket(d.Ref.ID) {
			e, err := ownOf(d)
			if err != nil {
				return nil, err
			}
			owns = append(owns, e)
			continue
		}
		bk, entries, err := entriesOf(d)
		if err != nil {
			return nil, err
		}
		bk.own = make(map[string]bool)
		buckets[d.Ref.ID] = bk
		out = append(out, entries...)
	}
	for _, e := range owns {
		p := placeOf(e.key)
		if buckets[p.bucket] == nil {
			return nil, damaged(p.own, "its bucket %s is missing", p.bucket)
		}
		buckets[p.bucket].own[p.own] = true
	}
	b.learn(st, func(k *knowledge) {
		for id, bk := range buckets {
			k.set(id, bk)
		}
		if k.whole == nil {
			k.whole = make(map[authstore.Kind]bool)
		}
		k.whole[kind] = true
	})
	return append(out, owns...), nil
}

// scanBucket reads the one bucket in which all ids with the prefix stand. If
// it has spilled, their documents are read too, between two looks at the
// bucket that find it the same: a key that moves changes its bucket.
func (s keyValues) scanBucket(ctx context.Context, op string, kind authstore.Kind, id, prefix string) ([]entry, error) {
	b := s.b
	look := func() (doc *firestore.DocumentSnapshot, spilled bool, entries []entry, err error) {
		st := b.stamp()
		req := b.request()
		req.add(id)
		docs, err := req.read(ctx, op)
		if err != nil {
			return nil, false, nil, err
		}
		bk, entries, err := entriesOf(docs[id])
		if err != nil {
			return nil, false, nil, err
		}
		spilled = bk.spilled // bk belongs to the writer once it is learnt
		b.learn(st, func(k *knowledge) {
			if k.buckets[id] == nil {
				k.set(id, bk)
			}
		})
		return docs[id], spilled, entries, nil
	}
	doc, spilled, entries, err := look()
	for n := 1; err == nil && spilled; n++ {
		owns, err := s.owns(ctx, op, kind, prefix)
		if err != nil {
			return nil, err
		}
		again, spilled2, entries2, err := look()
		if err != nil {
			return nil, err
		}
		if again.UpdateTime.Equal(doc.UpdateTime) {
			return append(entries, owns...), nil
		}
		if doc, spilled, entries = again, spilled2, entries2; n == tries {
			return nil, fmt.Errorf("%w: %s: the keys kept moving while they were read", ErrUnavailable, op)
		}
	}
	return entries, err
}

// owns reads the documents that hold one value each. Hashed names are in no
// order that a prefix could use.
func (s keyValues) owns(ctx context.Context, op string, kind authstore.Kind, prefix string) ([]entry, error) {
	b := s.b
	name := kindName(kind)
	from := name + escape(prefix, false)
	if len(from) > maxName {
		from = from[:maxName] // a longer range; ids are compared afterwards
	}
	queries := []firestore.Query{b.between(from, from+"~")}
	if prefix != "" {
		queries = append(queries, b.between(name+"=", name+"=~"))
	}
	found := make([][]*firestore.DocumentSnapshot, len(queries))
	errs := make([]error, len(queries))
	var wg sync.WaitGroup
	for i, q := range queries {
		wg.Go(func() { found[i], errs[i] = b.list(ctx, laneAuth, op, q) })
	}
	wg.Wait()
	var out []entry
	for i, docs := range found {
		if errs[i] != nil {
			return nil, errs[i]
		}
		for _, d := range docs {
			e, err := ownOf(d)
			if err != nil {
				return nil, err
			}
			out = append(out, e)
		}
	}
	return out, nil
}

// between queries documents of keys by id: from inclusive, to exclusive.
func (b *backend) between(from, to string) firestore.Query {
	return b.keys.Where(firestore.DocumentID, ">=", b.keys.Doc(from)).Where(firestore.DocumentID, "<", b.keys.Doc(to))
}
