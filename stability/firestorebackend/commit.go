package firestorebackend

import (
	"context"
	"fmt"

	"cloud.google.com/go/firestore"

	"github.com/wastability/wastability/authstore"
)

// Commit is one request: the fence, and each document that changes. A bucket
// that this writer has not seen yet is read first.
func (s keyValues) Commit(ctx context.Context, epoch int64, batch authstore.Batch) error {
	const op = "commit"
	b := s.b
	if err := limits.Check(batch); err != nil {
		return fmt.Errorf("firestorebackend: %w", err)
	}
	if err := b.enter(ctx, op); err != nil {
		return err
	}
	var p *plan
	err := b.underFence(ctx, laneAuth, op, epoch,
		func(ctx context.Context, w *writer) (func(*firestore.WriteBatch), error) {
			if err := b.meet(ctx, op, w, batch); err != nil {
				return nil, err
			}
			p = b.plan(w, batch)
			return p.write, nil
		},
		func(w *writer) { b.finish(w, p, false) })
	if err == nil {
		b.finish(p.writer, p, true)
		return nil
	}
	if invalid(err) {
		// It would be refused again, and must not be taken for an outage.
		return fmt.Errorf("firestorebackend: %s: Firestore refuses the write: %w: %w", op, authstore.ErrTooLarge, err)
	}
	return err
}

// meet sees to it that the writer knows every bucket that the batch touches.
func (b *backend) meet(ctx context.Context, op string, w *writer, batch authstore.Batch) error {
	req := b.request()
	b.mu.Lock()
	k := &w.know
	need := func(key authstore.Key) {
		p := placeOf(key)
		if p.bucket == "" || k.buckets[p.bucket] != nil {
			return
		}
		if k.whole[key.Kind] {
			k.set(p.bucket, &bucket{sizes: make(map[string]int), own: make(map[string]bool)})
			return
		}
		req.add(p.bucket)
	}
	for _, e := range batch.Put {
		need(e.Key)
	}
	for _, key := range batch.Delete {
		need(key)
	}
	if !k.formatOK {
		req.add(credsID)
	}
	b.mu.Unlock()
	if len(req.refs) == 0 {
		return nil
	}
	docs, err := req.read(ctx, op)
	if err != nil {
		return err
	}
	read := make(map[string]*bucket, len(docs))
	for id, d := range docs {
		if read[id], _, err = entriesOf(d); err != nil {
			return err
		}
	}
	if creds := docs[credsID]; creds != nil {
		if err := checkFormat(creds); err != nil {
			return err
		}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	k.formatOK = true
	for id, bk := range read {
		if k.buckets[id] == nil {
			k.set(id, bk)
		}
	}
	return nil
}

// plan is one batch as writes of documents.
type plan struct {
	b       *backend
	writer  *writer
	changed map[string]*change // by id of the bucket
	owns    []ownWrite
}

// change is what happens to one bucket.
type change struct {
	bk     *bucket
	fields map[string]any // a value or firestore.Delete
}

type ownWrite struct {
	id    string
	key   authstore.Key
	value []byte
	del   bool
}

// plan decides where everything goes and takes it down in the writer's
// knowledge at once. finish corrects that if the commit fails.
func (b *backend) plan(w *writer, batch authstore.Batch) *plan {
	p := &plan{b: b, writer: w, changed: make(map[string]*change)}
	b.mu.Lock()
	defer b.mu.Unlock()
	w.know.busy = true
	w.know.changes++
	for _, e := range batch.Put {
		p.put(placeOf(e.Key), e)
	}
	for _, k := range batch.Delete {
		p.delete(placeOf(k), k)
	}
	return p
}

func (p *plan) bucket(id string) *bucket { return p.writer.know.buckets[id] }

func (p *plan) change(id string) *change {
	c := p.changed[id]
	if c == nil {
		c = &change{bk: p.bucket(id), fields: make(map[string]any)}
		p.changed[id] = c
	}
	return c
}

func (p *plan) put(at place, e authstore.Entry) {
	if at.bucket == "" {
		p.owns = append(p.owns, ownWrite{id: at.own, key: e.Key, value: e.Value})
		return
	}
	bk := p.bucket(at.bucket)
	if w := at.weight(e.Value, e.Key.ID); bk.takes(at, w, len(e.Value)) {
		if _, in := bk.sizes[at.field]; !in && bk.mayOwn(at.own) {
			p.owns = append(p.owns, ownWrite{id: at.own, del: true})
			delete(bk.own, at.own)
		}
		p.change(at.bucket).fields[at.field] = stored(at.base, e.Key, e.Value)
		bk.put(at.field, w)
		return
	}
	p.owns = append(p.owns, ownWrite{id: at.own, key: e.Key, value: e.Value})
	if _, in := bk.sizes[at.field]; in {
		p.change(at.bucket).fields[at.field] = firestore.Delete
		bk.drop(at.field)
	}
	if !bk.spilled {
		p.change(at.bucket) // writes the mark
		bk.spilled = true
	}
	if bk.own != nil {
		bk.own[at.own] = true
	}
}

func (p *plan) delete(at place, k authstore.Key) {
	if at.bucket == "" {
		p.owns = append(p.owns, ownWrite{id: at.own, del: true})
		return
	}
	bk := p.bucket(at.bucket)
	if _, in := bk.sizes[at.field]; in {
		p.change(at.bucket).fields[at.field] = firestore.Delete
		bk.drop(at.field)
		return
	}
	if bk.mayOwn(at.own) {
		p.owns = append(p.owns, ownWrite{id: at.own, del: true})
		delete(bk.own, at.own)
	}
}

// write adds the plan to a commit.
func (p *plan) write(batch *firestore.WriteBatch) {
	for id, c := range p.changed {
		ref := p.b.doc(id)
		if id != credsID && len(c.bk.sizes) == 0 && c.bk.own != nil && len(c.bk.own) == 0 {
			batch.Delete(ref)
			continue
		}
		name := "data"
		data := map[string]any{"updatedAt": firestore.ServerTimestamp}
		paths := []firestore.FieldPath{{"updatedAt"}}
		if id == credsID {
			name = "creds"
			data["format"] = layoutVersion
			paths = append(paths, firestore.FieldPath{"format"})
		}
		if c.bk.spilled {
			data["spilled"] = true
			paths = append(paths, firestore.FieldPath{"spilled"})
		}
		if len(c.fields) > 0 {
			data[name] = c.fields
		}
		for f := range c.fields {
			paths = append(paths, firestore.FieldPath{name, f})
		}
		batch.Set(ref, data, firestore.Merge(paths...))
	}
	for _, w := range p.owns {
		ref := p.b.doc(w.id)
		if w.del {
			batch.Delete(ref)
			continue
		}
		data := map[string]any{"data": notNil(w.value), "updatedAt": firestore.ServerTimestamp}
		if _, name, _ := cut(w.id); isHashed(name) {
			data["id"] = []byte(w.key.ID)
		}
		batch.Set(ref, data)
	}
}

// finish corrects the knowledge to what became of the plan. After an error
// nothing is known of what it touched.
func (b *backend) finish(w *writer, p *plan, landed bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	w.know.busy = false
	w.know.changes++
	for id, c := range p.changed {
		if !landed {
			delete(w.know.buckets, id)
			continue
		}
		c.bk.exists = true
		if len(c.bk.sizes) == 0 && c.bk.own != nil && len(c.bk.own) == 0 && id != credsID {
			c.bk.exists, c.bk.spilled = false, false
		}
	}
	if !landed {
		// A document of its own may have come or gone without its bucket.
		for id, bk := range w.know.buckets {
			if bk.spilled {
				delete(w.know.buckets, id)
			}
		}
		clear(w.know.whole)
	}
}
