import com.fasterxml.jackson.databind.ObjectMapper;
import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.io.PrintStream;
import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Base64;
import java.util.Collection;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.TreeMap;
import java.util.TreeSet;
import java.util.concurrent.ExecutionException;
import org.apache.kafka.clients.admin.Admin;
import org.apache.kafka.clients.admin.ConfigEntry;
import org.apache.kafka.clients.admin.TopicDescription;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.ConsumerRecords;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.producer.internals.BuiltInPartitioner;
import org.apache.kafka.common.PartitionInfo;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.acl.AccessControlEntry;
import org.apache.kafka.common.acl.AclBinding;
import org.apache.kafka.common.acl.AclOperation;
import org.apache.kafka.common.acl.AclPermissionType;
import org.apache.kafka.common.config.ConfigResource;
import org.apache.kafka.common.header.Header;
import org.apache.kafka.common.resource.PatternType;
import org.apache.kafka.common.resource.ResourcePattern;
import org.apache.kafka.common.resource.ResourceType;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;

/**
 * Reads topics with Kafka's own Java client: a second opinion beside librdkafka, which the bridge uses.
 *
 * <p>Run it with a JDK: {@code tests/kafka/probe.sh COMMAND …} (compiles once), or {@code java -cp
 * "$BUTLR_BRIDGE_TEST_JAVA_CP" tests/kafka/KafkaProbe.java COMMAND …}
 *
 * <pre>
 * read BOOTSTRAP [--timeout-ms N] TOPIC...
 *     Prints every record up to the end offsets at the start, one JSON object per line: topic,
 *     partition, offset, timestamp, timestampType (CreateTime | LogAppendTime), keyBase64, valueBase64
 *     (null if absent), headers: [[name, valueBase64], ...] in order. The records of a partition are in
 *     offset order. A missing topic is an error.
 * describe BOOTSTRAP [TOPIC...]
 *     Prints one JSON object per line for each topic (default: all except internal ones): topic, exists,
 *     and if it exists: partitions, replicationFactor, beginningOffsets, endOffsets (by partition),
 *     configs: {name: {value, source}} (source as in ConfigEntry.ConfigSource: DEFAULT_CONFIG,
 *     DYNAMIC_TOPIC_CONFIG, ...).
 * partitions N
 *     Reads keys (base64, one per line) from standard input and prints for each the partition, out of N,
 *     that the Java producer chooses.
 * deny-write BOOTSTRAP TOPIC USER
 *     Denies USER to write to TOPIC. All other operations and users stay allowed.
 * </pre>
 *
 * <p>Exit status: 0 done, 1 failed (or --timeout-ms, default 30000, exceeded), 2 bad usage.
 */
public final class KafkaProbe {
    private static final ObjectMapper JSON = new ObjectMapper();
    private static final PrintStream OUT = new PrintStream(new java.io.FileOutputStream(java.io.FileDescriptor.out), false, StandardCharsets.UTF_8);

    /** Wrong arguments; the exit status is 2. */
    private static final class Usage extends Exception {
        Usage(String message) {
            super(message);
        }
    }

    public static void main(String[] args) {
        // Log errors only.
        System.setProperty("org.slf4j.simpleLogger.defaultLogLevel", "error");
        int status = 0;
        try {
            run(new ArrayList<>(Arrays.asList(args)));
        } catch (Usage | NumberFormatException e) {
            System.err.println("KafkaProbe: " + e.getMessage() + "; usage: read | describe | partitions | deny-write, see the comment in KafkaProbe.java");
            status = 2;
        } catch (Exception e) {
            Throwable cause = e instanceof ExecutionException && e.getCause() != null ? e.getCause() : e;
            System.err.println("KafkaProbe: " + cause);
            status = 1;
        }
        OUT.flush();
        if (OUT.checkError() && status == 0) {
            System.err.println("KafkaProbe: could not write to standard output");
            status = 1;
        }
        System.exit(status);
    }

    private static void run(List<String> args) throws Exception {
        String command = take(args, "command");
        switch (command) {
            case "read" -> read(take(args, "BOOTSTRAP"), timeout(args), args);
            case "describe" -> describe(take(args, "BOOTSTRAP"), args);
            case "partitions" -> partitions(Integer.parseInt(take(args, "N")));
            case "deny-write" -> denyWrite(take(args, "BOOTSTRAP"), take(args, "TOPIC"), take(args, "USER"));
            default -> throw new Usage("unknown command " + command);
        }
    }

    private static String take(List<String> args, String what) throws Usage {
        if (args.isEmpty()) {
            throw new Usage(what + " is missing");
        }
        return args.remove(0);
    }

    private static Duration timeout(List<String> args) throws Usage {
        int at = args.indexOf("--timeout-ms");
        if (at < 0) {
            return Duration.ofSeconds(30);
        }
        args.remove(at);
        if (at == args.size()) {
            throw new Usage("--timeout-ms needs a number");
        }
        return Duration.ofMillis(Long.parseLong(args.remove(at)));
    }

    private static KafkaConsumer<byte[], byte[]> consumer(String bootstrap, Duration timeout) {
        return new KafkaConsumer<>(
                Map.of(
                        "bootstrap.servers", bootstrap,
                        "enable.auto.commit", false,
                        // A query for a missing topic must not create it.
                        "allow.auto.create.topics", false,
                        "default.api.timeout.ms", (int) timeout.toMillis(),
                        "request.timeout.ms", (int) timeout.toMillis()),
                new ByteArrayDeserializer(),
                new ByteArrayDeserializer());
    }

    private static Admin admin(String bootstrap) {
        return Admin.create(Map.of("bootstrap.servers", bootstrap, "default.api.timeout.ms", 20_000, "request.timeout.ms", 10_000));
    }

    private static void read(String bootstrap, Duration timeout, List<String> topics) throws Exception {
        if (topics.isEmpty()) {
            throw new Usage("TOPIC is missing");
        }
        long deadline = System.nanoTime() + timeout.toNanos();
        try (KafkaConsumer<byte[], byte[]> consumer = consumer(bootstrap, timeout)) {
            // One request for all topics, because a query for a missing topic would wait until the timeout.
            Map<String, List<PartitionInfo>> known = consumer.listTopics();
            List<TopicPartition> partitions = new ArrayList<>();
            for (String topic : topics) {
                if (!known.containsKey(topic)) {
                    throw new IllegalStateException("topic " + topic + " does not exist");
                }
                known.get(topic).forEach(p -> partitions.add(new TopicPartition(topic, p.partition())));
            }
            Map<TopicPartition, Long> end = consumer.endOffsets(partitions);
            consumer.assign(partitions);
            consumer.seekToBeginning(partitions);
            Set<TopicPartition> open = new TreeSet<>((a, b) -> a.toString().compareTo(b.toString()));
            open.addAll(partitions);
            while (true) {
                // Compare the position, because transaction markers and deleted records have offsets too.
                List<TopicPartition> done = new ArrayList<>();
                for (TopicPartition partition : open) {
                    if (consumer.position(partition) >= end.get(partition)) {
                        done.add(partition);
                    }
                }
                open.removeAll(done);
                if (open.isEmpty()) {
                    return;
                }
                consumer.pause(done);
                if (System.nanoTime() > deadline) {
                    throw new IllegalStateException("did not reach the end within " + timeout.toMillis() + " ms: " + open);
                }
                ConsumerRecords<byte[], byte[]> records = consumer.poll(Duration.ofMillis(200));
                for (ConsumerRecord<byte[], byte[]> record : records) {
                    if (record.offset() < end.get(new TopicPartition(record.topic(), record.partition()))) {
                        print(record);
                    }
                }
            }
        }
    }

    private static void print(ConsumerRecord<byte[], byte[]> record) throws Exception {
        List<List<String>> headers = new ArrayList<>();
        for (Header header : record.headers()) {
            headers.add(Arrays.asList(header.key(), base64(header.value())));
        }
        Map<String, Object> line = new LinkedHashMap<>();
        line.put("topic", record.topic());
        line.put("partition", record.partition());
        line.put("offset", record.offset());
        line.put("timestamp", record.timestamp());
        line.put("timestampType", record.timestampType().toString());
        line.put("keyBase64", base64(record.key()));
        line.put("valueBase64", base64(record.value()));
        line.put("headers", headers);
        OUT.println(JSON.writeValueAsString(line));
    }

    private static String base64(byte[] bytes) {
        return bytes == null ? null : Base64.getEncoder().encodeToString(bytes);
    }

    private static void describe(String bootstrap, List<String> named) throws Exception {
        try (Admin admin = admin(bootstrap);
                KafkaConsumer<byte[], byte[]> consumer = consumer(bootstrap, Duration.ofSeconds(20))) {
            Set<String> existing = admin.listTopics().names().get();
            Collection<String> topics = named.isEmpty() ? new TreeSet<>(existing) : named;
            for (String topic : topics) {
                Map<String, Object> line = new LinkedHashMap<>();
                line.put("topic", topic);
                line.put("exists", existing.contains(topic));
                if (existing.contains(topic)) {
                    TopicDescription description = admin.describeTopics(List.of(topic)).topicNameValues().get(topic).get();
                    List<TopicPartition> partitions =
                            description.partitions().stream().map(p -> new TopicPartition(topic, p.partition())).toList();
                    line.put("partitions", partitions.size());
                    line.put("replicationFactor", description.partitions().get(0).replicas().size());
                    line.put("beginningOffsets", inOrder(partitions, consumer.beginningOffsets(partitions)));
                    line.put("endOffsets", inOrder(partitions, consumer.endOffsets(partitions)));
                    ConfigResource resource = new ConfigResource(ConfigResource.Type.TOPIC, topic);
                    Map<String, Map<String, String>> configs = new TreeMap<>();
                    for (ConfigEntry entry : admin.describeConfigs(List.of(resource)).values().get(resource).get().entries()) {
                        Map<String, String> config = new LinkedHashMap<>();
                        config.put("value", entry.value());
                        config.put("source", entry.source().toString());
                        configs.put(entry.name(), config);
                    }
                    line.put("configs", configs);
                }
                OUT.println(JSON.writeValueAsString(line));
            }
        }
    }

    private static List<Long> inOrder(List<TopicPartition> partitions, Map<TopicPartition, Long> offsets) {
        return partitions.stream().map(offsets::get).toList();
    }

    private static void partitions(int count) throws Exception {
        if (count < 1) {
            throw new Usage("N must be at least 1");
        }
        BufferedReader in = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.US_ASCII));
        for (String line = in.readLine(); line != null; line = in.readLine()) {
            OUT.println(BuiltInPartitioner.partitionForKey(Base64.getDecoder().decode(line.strip()), count));
        }
    }

    private static void denyWrite(String bootstrap, String topic, String user) throws Exception {
        ResourcePattern resource = new ResourcePattern(ResourceType.TOPIC, topic, PatternType.LITERAL);
        try (Admin admin = admin(bootstrap)) {
            admin.createAcls(
                            List.of(
                                    new AclBinding(resource, new AccessControlEntry("User:" + user, "*", AclOperation.WRITE, AclPermissionType.DENY)),
                                    // Without rules everything is allowed. With one, only what a rule allows; a denial wins.
                                    new AclBinding(resource, new AccessControlEntry("User:*", "*", AclOperation.ALL, AclPermissionType.ALLOW))))
                    .all()
                    .get();
        }
    }
}
