package firestoresim

import (
	"context"
	"maps"
	"slices"
	"strings"
	"time"

	pb "cloud.google.com/go/firestore/apiv1/firestorepb"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

func (v service) GetDocument(ctx context.Context, r *pb.GetDocumentRequest) (*pb.Document, error) {
	db, _, err := splitDatabase(r.GetName())
	if err != nil {
		return nil, err
	}
	path, err := documentPath(db, r.GetName(), false)
	if err != nil {
		return nil, err
	}
	m, err := parseMask(r.GetMask())
	if err != nil {
		return nil, err
	}
	if r.GetConsistencySelector() != nil {
		return nil, unimplemented("GetDocument in a transaction")
	}
	v.s.mu.Lock()
	defer v.s.mu.Unlock()
	v.s.bill(callOf(ctx), Billing{Reads: 1})
	d := v.s.db(db).get(path)
	if d == nil {
		return nil, status.Errorf(codes.NotFound, "firestoresim: the document %q does not exist", r.GetName())
	}
	return d.proto(db, m), nil
}

func (v service) BatchGetDocuments(r *pb.BatchGetDocumentsRequest, out pb.Firestore_BatchGetDocumentsServer) error {
	s, db := v.s, r.GetDatabase()
	if err := checkDatabase(db); err != nil {
		return err
	}
	m, err := parseMask(r.GetMask())
	if err != nil {
		return err
	}
	var paths []string // each once
	seen := map[string]bool{}
	for _, name := range r.GetDocuments() {
		path, err := documentPath(db, name, false)
		if err != nil {
			return err
		}
		if !seen[path] {
			seen[path] = true
			paths = append(paths, path)
		}
	}
	var tx *transaction
	switch c := r.GetConsistencySelector().(type) {
	case nil:
	case *pb.BatchGetDocumentsRequest_Transaction:
		if tx, err = s.transaction(db, c.Transaction); err != nil {
			return err
		}
	case *pb.BatchGetDocumentsRequest_NewTransaction:
		if tx, err = s.begin(db, newTransaction(c.NewTransaction)); err != nil {
			return err
		}
		if err := out.Send(&pb.BatchGetDocumentsResponse{Transaction: []byte(tx.id)}); err != nil {
			return err
		}
	default:
		return unimplemented("a read_time")
	}
	res := make([]*pb.BatchGetDocumentsResponse, len(paths))
	s.mu.Lock()
	if tx != nil && tx.closed {
		s.mu.Unlock()
		return errTransactionClosed
	}
	from, at := s.view(db, tx)
	times := s.readTimes(at, len(paths))
	for i, path := range paths {
		if tx != nil {
			tx.docs[path] = struct{}{}
		}
		res[i] = &pb.BatchGetDocumentsResponse{ReadTime: times[i]}
		if d := from.get(path); d != nil {
			res[i].Result = &pb.BatchGetDocumentsResponse_Found{Found: d.proto(db, m)}
		} else {
			res[i].Result = &pb.BatchGetDocumentsResponse_Missing{Missing: db + "/documents/" + path}
		}
	}
	s.bill(callOf(out.Context()), Billing{Reads: len(paths)})
	s.mu.Unlock()
	for _, one := range res {
		if err := out.Send(one); err != nil {
			return err
		}
	}
	return nil
}

// parentPath checks the parent of collections: the root or a document.
func parentPath(parent string) (db, path string, err error) {
	if db, path, err = splitDatabase(parent); err != nil {
		return "", "", err
	}
	if parent == db {
		return "", "", invalid("the parent %q does not end with /documents or a document", parent)
	}
	if path != "" {
		err = checkPath(path, parent, false)
	}
	return db, path, err
}

func under(parent, path string) (string, bool) {
	if parent == "" {
		return path, true
	}
	return strings.CutPrefix(path, parent+"/")
}

func (v service) ListCollectionIds(ctx context.Context, r *pb.ListCollectionIdsRequest) (*pb.ListCollectionIdsResponse, error) {
	db, parent, err := parentPath(r.GetParent())
	if err != nil {
		return nil, err
	}
	if r.GetConsistencySelector() != nil {
		return nil, unimplemented("a read_time")
	}
	ids := map[string]bool{}
	v.s.mu.Lock()
	for coll := range v.s.db(db).colls {
		if rest, ok := under(parent, coll); ok {
			id, _, _ := strings.Cut(rest, "/")
			ids[id] = true
		}
	}
	v.s.bill(callOf(ctx), Billing{Reads: 1})
	v.s.mu.Unlock()
	sorted := slices.Sorted(maps.Keys(ids))
	page, next := pageOf(sorted, r.GetPageSize(), r.GetPageToken(), strings.Compare, func(id string) string { return id })
	return &pb.ListCollectionIdsResponse{CollectionIds: page, NextPageToken: next}, nil
}

// pageOf cuts a page out of a sorted list; a token is the last one's key.
func pageOf[T any](all []T, size int32, token string, compare func(a, b string) int, key func(T) string) (page []T, next string) {
	first := 0
	for token != "" && first < len(all) && compare(key(all[first]), token) <= 0 {
		first++
	}
	all = all[first:]
	if size > 0 && int(size) < len(all) {
		all = all[:size]
		next = key(all[size-1])
	}
	return all, next
}

func (v service) ListDocuments(ctx context.Context, r *pb.ListDocumentsRequest) (*pb.ListDocumentsResponse, error) {
	db, parent, err := parentPath(r.GetParent())
	if err != nil {
		return nil, err
	}
	if err := checkID(r.GetCollectionId(), true, false); err != nil {
		return nil, err
	}
	m, err := parseMask(r.GetMask())
	if err != nil {
		return nil, err
	}
	switch {
	case r.GetOrderBy() != "":
		return nil, unimplemented("order_by of ListDocuments")
	case r.GetConsistencySelector() != nil:
		return nil, unimplemented("ListDocuments in a transaction")
	case r.GetPageSize() < 0:
		return nil, invalid("page_size is negative")
	}
	coll := strings.TrimPrefix(parent+"/"+r.GetCollectionId(), "/")
	var docs []*document
	v.s.mu.Lock()
	from := v.s.db(db)
	for _, d := range from.colls[coll] {
		docs = append(docs, d)
	}
	if r.GetShowMissing() {
		missing := map[string]bool{}
		for c := range from.colls {
			if rest, ok := strings.CutPrefix(c, coll+"/"); ok {
				id, _, _ := strings.Cut(rest, "/")
				if p := coll + "/" + id; from.get(p) == nil && !missing[p] {
					missing[p] = true
					docs = append(docs, &document{path: p})
				}
			}
		}
	}
	v.s.mu.Unlock()
	sortDocuments(docs)
	page, next := pageOf(docs, r.GetPageSize(), r.GetPageToken(), comparePaths, func(d *document) string { return d.path })
	res := &pb.ListDocumentsResponse{NextPageToken: next}
	for _, d := range page {
		p := d.proto(db, m)
		if d.updated.Equal(time.Time{}) {
			p.CreateTime, p.UpdateTime = nil, nil
		}
		res.Documents = append(res.Documents, p)
	}
	v.s.mu.Lock()
	v.s.bill(callOf(ctx), Billing{Reads: max(len(page), 1)})
	v.s.mu.Unlock()
	return res, nil
}
