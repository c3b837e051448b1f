// Package metrics makes OpenTelemetry instruments of what a stability.Manager
// knows. It needs OpenTelemetry's metric API alone. The program chooses the
// SDK and the exporter: examples/metrics shows those for Prometheus, and
// deploy/ has alert rules and a Grafana dashboard.
//
//	unregister, err := metrics.Register(manager, meterProvider)
//
// All instruments are observable ones: they read Manager.Status, Counts and
// Incidents when the SDK collects, without I/O and without waiting, and nothing
// runs between. A program that does not import this package does not link
// OpenTelemetry for it.
//
// # Instruments
//
// The second column says how the values of several Managers make one where they
// have no account labels: their sum, the largest, or the least. A counter is
// summed up too.
//
//	wastability.accounts                      sum      {account}
//	wastability.connection.state              sum      {account}    state
//	wastability.connection.state.age          largest  s
//	wastability.connection.connected          sum      {account}
//	wastability.connection.attempts           counter  {attempt}
//	wastability.connection.logins             counter  {login}
//	wastability.connection.disconnects        counter  {disconnect} reason
//	wastability.connection.health             sum      {account}    health
//	wastability.connection.ping.duration      counter  s
//	wastability.connection.pings              counter  {ping}
//	wastability.messages.waiting              sum      {message}
//	wastability.messages.waiting.age          largest  s
//	wastability.messages.set_aside            sum      {message}
//	wastability.messages.set_aside.age        largest  s
//	wastability.messages.handled              counter  {message}
//	wastability.handlers.waiting              sum      {stanza}
//	wastability.handlers.running.age          largest  s
//	wastability.sends                         counter  {message}    result code
//	wastability.sends.unanswered              sum      {message}
//	wastability.sends.waiting                 sum      {message}
//	wastability.sends.answer.duration         counter  s
//	wastability.lock.held                     sum      {account}
//	wastability.lock.term                     largest  {term}
//	wastability.lock.terms                    counter  {term}
//	wastability.lock.renewals                 counter  {renewal}    result
//	wastability.lock.lease                    largest  s
//	wastability.lock.trust.remaining          least    s
//	wastability.store.available               sum      {account}
//	wastability.store.unavailable.age         largest  s
//	wastability.store.operations              counter  {operation}  operation result
//	wastability.store.operation.duration      counter  s            operation
//	wastability.store.operation.slowest       largest  s            operation
//	wastability.incidents.active              sum      {incident}   incident
//
// Attribute names begin with "wastability.", which is left out above. Each
// takes one of a closed set of values: State for state, reconnect.Reasons for
// reason, keepalive.Health for health, guard.Types for incident,
// stability.StoreCalls for operation. A result is ok or error, with sends
// acknowledged or refused. A code is one of eight known refusals. All else
// becomes "other": no value comes from WhatsApp, from a chat or from an
// error's text. The account is there only with WithAccount or
// WithAccountLabels.
//
// Sums and counters are there from the first collection on, at zero. Largest and
// least values are there when they mean something: an instance that stands by
// has no trust left to tell of.
//
// # Several instances of an account
//
// Each instance reports what it knows itself, so a question about an account is
// asked of all: max(wastability_connection_connected) is 1 while one of them is
// connected. An incident of the account is reported by the instance that holds
// the lock; one about the backend or the lock by each that sees it.
//
// Counters begin at zero with each Manager, which Prometheus takes for a restart.
// With RegisterAll and without account labels the same happens when a Manager
// leaves the sequence.
package metrics
