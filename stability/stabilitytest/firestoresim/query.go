package firestoresim

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	pb "cloud.google.com/go/firestore/apiv1/firestorepb"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// query is a checked pb.StructuredQuery.
type query struct {
	db       string
	parent   string
	coll     string // its id; empty: any
	all      bool   // of all descendants
	filter   filter // nil: all
	orders   []order
	start    *cursor
	end      *cursor
	offset   int
	limit    int // negative: none
	selected *mask
}

type order struct {
	path []string // nil: the name
	desc bool
}

type cursor struct {
	values []*pb.Value
	before bool
}

const nameField = "__name__"

// queryField parses a field path; the document's name gives nil.
func queryField(f *pb.StructuredQuery_FieldReference) ([]string, error) {
	if f.GetFieldPath() == nameField {
		return nil, nil
	}
	return fieldPath(f.GetFieldPath())
}

func parseQuery(parent string, sq *pb.StructuredQuery) (q *query, err error) {
	q = &query{limit: -1}
	if q.db, q.parent, err = parentPath(parent); err != nil {
		return nil, err
	}
	if sq == nil {
		return nil, invalid("there is no structured query")
	}
	if len(sq.ProtoReflect().GetUnknown()) > 0 || sq.GetFindNearest() != nil {
		return nil, unimplemented("this kind of query")
	}
	if len(sq.GetFrom()) != 1 {
		return nil, unimplemented("a query that is not from one collection")
	}
	q.coll, q.all = sq.GetFrom()[0].GetCollectionId(), sq.GetFrom()[0].GetAllDescendants()
	if strings.Contains(q.coll, "/") {
		return nil, invalid("the collection id %q contains /", q.coll)
	}
	if q.coll != "" {
		if err := checkID(q.coll, true, false); err != nil {
			return nil, err
		}
	}
	if q.all && q.parent != "" && (sq.GetWhere() != nil || len(sq.GetOrderBy()) > 0) {
		return nil, invalid("a filtered or ordered query of a collection group under a document")
	}
	var bounds []string
	if q.filter, err = q.parseFilter(sq.GetWhere(), &bounds); err != nil {
		return nil, err
	}
	if err := q.parseOrders(sq.GetOrderBy(), bounds); err != nil {
		return nil, err
	}
	explicit := len(sq.GetOrderBy())
	if q.start, err = q.parseCursor(sq.GetStartAt(), explicit); err != nil {
		return nil, err
	}
	if q.end, err = q.parseCursor(sq.GetEndAt(), explicit); err != nil {
		return nil, err
	}
	if q.offset = int(sq.GetOffset()); q.offset < 0 {
		return nil, invalid("offset is negative")
	}
	if l := sq.GetLimit(); l != nil {
		if q.limit = int(l.GetValue()); q.limit < 0 {
			return nil, invalid("limit is negative")
		}
	}
	if sel := sq.GetSelect(); sel != nil {
		q.selected = &mask{}
		for _, f := range sel.GetFields() {
			path, err := queryField(f)
			if err != nil {
				return nil, err
			}
			if path != nil {
				q.selected.paths = append(q.selected.paths, path)
			}
		}
	}
	return q, nil
}

// parseOrders adds what is implied: the fields of inequalities, by name, then
// the document's name, in the direction of the last one.
func (q *query) parseOrders(orders []*pb.StructuredQuery_Order, bounds []string) error {
	seen := map[string]bool{}
	desc := false
	for _, o := range orders {
		f := o.GetField().GetFieldPath()
		path, err := queryField(o.GetField())
		if err != nil {
			return err
		}
		if seen[f] {
			return invalid("the field %s is twice in order_by", f)
		}
		if seen[nameField] {
			return invalid("a field is behind __name__ in order_by")
		}
		seen[f] = true
		desc = o.GetDirection() == pb.StructuredQuery_DESCENDING
		q.orders = append(q.orders, order{path, desc})
	}
	slices.Sort(bounds)
	for _, f := range bounds {
		if f != nameField && !seen[f] && !seen[nameField] {
			seen[f] = true
			path, err := fieldPath(f)
			if err != nil {
				return err
			}
			q.orders = append(q.orders, order{path, desc})
		}
	}
	if !seen[nameField] {
		q.orders = append(q.orders, order{nil, desc})
	}
	if q.orders[0].path == nil && q.orders[0].desc {
		return status.Error(codes.FailedPrecondition, "firestoresim: a query in descending order of names alone is not supported")
	}
	return nil
}

func (q *query) parseCursor(c *pb.Cursor, explicit int) (*cursor, error) {
	if c == nil || len(c.GetValues()) == 0 {
		return nil, nil
	}
	if len(c.GetValues()) > explicit {
		return nil, invalid("a cursor has more values than order_by has fields")
	}
	for i, v := range c.GetValues() {
		if q.orders[i].path == nil {
			if err := q.checkName(v); err != nil {
				return nil, err
			}
		}
		if err := checkValue(v, 0); err != nil {
			return nil, err
		}
	}
	return &cursor{values: c.GetValues(), before: c.GetBefore()}, nil
}

// checkName checks a value that is compared with document names.
func (q *query) checkName(v *pb.Value) error {
	ref, ok := v.GetValueType().(*pb.Value_ReferenceValue)
	if !ok {
		return invalid("__name__ is compared with a value that is no document")
	}
	_, err := documentPath(q.db, ref.ReferenceValue, false)
	return err
}

// concerns reports whether a document is in the collections of the query.
func (q *query) concerns(path string) bool {
	rest, ok := under(q.parent, path)
	if !ok {
		return false
	}
	segments := strings.Count(rest, "/") + 1
	if !q.all && segments != 2 {
		return false
	}
	if q.coll == "" {
		return true
	}
	coll := collectionOf(path)
	return coll[strings.LastIndexByte(coll, '/')+1:] == q.coll
}

// candidates are the documents of the query's collections, in no order.
func (q *query) candidates(db *database, yield func(*document)) {
	if !q.all && q.coll != "" {
		for _, d := range db.colls[strings.TrimPrefix(q.parent+"/"+q.coll, "/")] {
			yield(d)
		}
		return
	}
	for coll, docs := range db.colls {
		if !q.concerns(coll + "/x") {
			continue
		}
		for _, d := range docs {
			yield(d)
		}
	}
}

// row is a document with its sort key.
type row struct {
	doc *document
	key []*pb.Value
}

// run finds the results; skipped are those behind the offset's back.
func (q *query) run(db *database) (docs []*document, skipped int) {
	var rows []row
	q.candidates(db, func(d *document) {
		if q.filter != nil && !q.filter.match(d) {
			return
		}
		r := row{doc: d}
		for _, o := range q.orders {
			if o.path == nil {
				r.key = append(r.key, nil)
				continue
			}
			v, ok := lookup(d.fields, o.path)
			if !ok {
				return // a document without the field is in no order by it
			}
			r.key = append(r.key, v)
		}
		if q.start != nil {
			if c := q.compareCursor(r, q.start); c < 0 || c == 0 && !q.start.before {
				return
			}
		}
		if q.end != nil {
			if c := q.compareCursor(r, q.end); c > 0 || c == 0 && q.end.before {
				return
			}
		}
		rows = append(rows, r)
	})
	slices.SortFunc(rows, q.compareRows)
	skipped = min(q.offset, len(rows))
	rows = rows[skipped:]
	if q.limit >= 0 && q.limit < len(rows) {
		rows = rows[:q.limit]
	}
	docs = make([]*document, len(rows))
	for i, r := range rows {
		docs[i] = r.doc
	}
	return docs, skipped
}

func (q *query) compareRows(a, b row) int {
	for i, o := range q.orders {
		var c int
		if o.path == nil {
			c = comparePaths(a.doc.path, b.doc.path)
		} else {
			c = compareValues(a.key[i], b.key[i])
		}
		if o.desc {
			c = -c
		}
		if c != 0 {
			return c
		}
	}
	return 0
}

func (q *query) compareCursor(r row, at *cursor) int {
	for i, v := range at.values {
		var c int
		if q.orders[i].path == nil {
			_, path, _ := splitDatabase(v.GetReferenceValue())
			c = comparePaths(r.doc.path, path)
		} else {
			c = compareValues(r.key[i], v)
		}
		if q.orders[i].desc {
			c = -c
		}
		if c != 0 {
			return c
		}
	}
	return 0
}

func (v service) RunQuery(r *pb.RunQueryRequest, out pb.Firestore_RunQueryServer) error {
	s := v.s
	q, err := parseQuery(r.GetParent(), r.GetStructuredQuery())
	if err != nil {
		return err
	}
	if r.GetExplainOptions() != nil {
		return unimplemented("explain_options")
	}
	var tx *transaction
	switch c := r.GetConsistencySelector().(type) {
	case nil:
	case *pb.RunQueryRequest_Transaction:
		if tx, err = s.transaction(q.db, c.Transaction); err != nil {
			return err
		}
	case *pb.RunQueryRequest_NewTransaction:
		if tx, err = s.begin(q.db, newTransaction(c.NewTransaction)); err != nil {
			return err
		}
		if err := out.Send(&pb.RunQueryResponse{Transaction: []byte(tx.id)}); err != nil {
			return err
		}
	default:
		return unimplemented("a read_time")
	}
	docs, skipped, times, err := s.runQuery(out.Context(), q, tx)
	if err != nil {
		return err
	}
	ts := times[0]
	if len(docs) == 0 {
		return out.Send(&pb.RunQueryResponse{ReadTime: ts, SkippedResults: int32(skipped),
			ContinuationSelector: &pb.RunQueryResponse_Done{Done: true}})
	}
	for i, d := range docs {
		res := &pb.RunQueryResponse{Document: d.proto(q.db, q.selected), ReadTime: times[i], SkippedResults: int32(skipped)}
		if skipped = 0; out.Send(res) != nil {
			return out.Context().Err()
		}
	}
	return nil
}

func (s *Server) runQuery(ctx context.Context, q *query, tx *transaction) ([]*document, int, []*timestamppb.Timestamp, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if tx != nil {
		if tx.closed {
			return nil, 0, nil, errTransactionClosed
		}
		tx.queries = append(tx.queries, q)
	}
	from, at := s.view(q.db, tx)
	docs, skipped := q.run(from)
	if callOf(ctx).method == RunQuery {
		s.bill(callOf(ctx), Billing{Reads: max(len(docs)+skipped, 1)})
	}
	return docs, skipped, s.readTimes(at, max(len(docs), 1)), nil
}

func (v service) RunAggregationQuery(r *pb.RunAggregationQueryRequest, out pb.Firestore_RunAggregationQueryServer) error {
	s, aq := v.s, r.GetStructuredAggregationQuery()
	q, err := parseQuery(r.GetParent(), aq.GetStructuredQuery())
	if err != nil {
		return err
	}
	if r.GetExplainOptions() != nil {
		return unimplemented("explain_options")
	}
	if len(aq.GetAggregations()) == 0 {
		return invalid("there are no aggregations")
	}
	aliases := map[string]int64{} // to up_to
	for i, a := range aq.GetAggregations() {
		count := a.GetCount()
		if count == nil {
			return unimplemented("an aggregation other than count")
		}
		upTo := int64(-1)
		if u := count.GetUpTo(); u != nil {
			if upTo = u.GetValue(); upTo < 0 {
				return invalid("up_to is negative")
			}
		}
		aliases[cmp.Or(a.GetAlias(), fmt.Sprintf("field_%d", i+1))] = upTo
	}
	if len(aliases) != len(aq.GetAggregations()) {
		return invalid("two aggregations have one alias")
	}
	var tx *transaction
	switch c := r.GetConsistencySelector().(type) {
	case nil:
	case *pb.RunAggregationQueryRequest_Transaction:
		if tx, err = s.transaction(q.db, c.Transaction); err != nil {
			return err
		}
	default:
		return unimplemented("this consistency of an aggregation")
	}
	docs, _, times, err := s.runQuery(out.Context(), q, tx)
	if err != nil {
		return err
	}
	n := int64(len(docs))
	s.mu.Lock()
	s.bill(callOf(out.Context()), Billing{Reads: int(max((n+999)/1000, 1))})
	s.mu.Unlock()
	result := fields{}
	for alias, upTo := range maps.All(aliases) {
		c := n
		if upTo >= 0 {
			c = min(n, upTo)
		}
		result[alias] = &pb.Value{ValueType: &pb.Value_IntegerValue{IntegerValue: c}}
	}
	return out.Send(&pb.RunAggregationQueryResponse{Result: &pb.AggregationResult{AggregateFields: result}, ReadTime: times[0]})
}
